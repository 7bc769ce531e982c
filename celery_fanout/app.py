"""Where the parts are put together, once per app; and the doors ``emit`` and ``aemit``."""

from __future__ import annotations

import datetime as dt
import math
import threading
import time as clock_module
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, cast, overload

from celery import _state
from celery import signals as celery_signals

from celery_fanout import (
    context,
    failures,  # noqa: F401  # pyright: ignore[reportUnusedImport] - registers the errback task
    logs,  # noqa: F401  # pyright: ignore[reportUnusedImport] - listens to the signals
)
from celery_fanout.context import Engine
from celery_fanout.declarations import declared
from celery_fanout.drafts import draft
from celery_fanout.exceptions import EmitWhileImporting, InvalidEvent
from celery_fanout.publisher import Publisher
from celery_fanout.registry import Explanation, Registry
from celery_fanout.runs import Runs
from celery_fanout.settings import Settings
from celery_fanout.stores.backend import BackendStore
from celery_fanout.stores.lazy import lazy_store
from celery_fanout.stores.memory import MemoryStore
from celery_fanout.suspension import Suspension

if TYPE_CHECKING:
    from collections.abc import Iterable

    from celery import Celery
    from pydantic import BaseModel

    from celery_fanout.canvas import FrozenChain
    from celery_fanout.context import Run
    from celery_fanout.emission import Emission
    from celery_fanout.events import Event
    from celery_fanout.stores import CheckpointStore

__all__ = ["Fanout", "aemit", "emit", "emit_many", "explain", "get_fanout"]

_ATTRIBUTE = "_celery_fanout"
_lock = threading.RLock()


class Fanout:
    """Everything of celery-fanout that belongs to one Celery app.

    Use :func:`get_fanout` to get it. Parts are built when they are first needed.

    Attributes:
        app: the Celery app.
        registry: the app's subscriptions.
    """

    def __init__(self, app: Celery) -> None:
        self.app = app
        self.clock = clock_module.time
        self.suspension = Suspension(app, self._now)
        self.runs = Runs(self._engine, self.suspension)
        self.registry = Registry(app, self.runs.wrap)
        self._loaded = False
        self._loading = False

    def _now(self) -> float:
        return self.clock()

    @cached_property
    def settings(self) -> Settings:
        """The app's ``fanout_*`` settings, read once.

        Raises:
            ConfigurationError: if one is unknown or cannot be used.
        """
        return Settings.from_app(self.app)

    @cached_property
    def store(self) -> CheckpointStore:
        """Where step results are kept.

        Raises:
            StoreUnsupported: if the result backend cannot be read back.
        """
        if self.settings.store_url == "memory://":
            return self.memory_store
        return BackendStore(self.app, self.settings)

    @cached_property
    def memory_store(self) -> MemoryStore:
        """The store of eager runs, and of ``fanout_store_url = "memory://"``."""
        return MemoryStore(self.settings.checkpoint_expires, self._now)

    @cached_property
    def publisher(self) -> Publisher:
        """Publishes events."""
        return Publisher(
            self.app, self.settings, self.registry, self._run_eagerly, self.suspension.hop
        )

    def _engine(self, eager: bool) -> Engine:  # noqa: FBT001 - a callback with one argument
        return self._eager_engine if eager else self._worker_engine

    @cached_property
    def _worker_engine(self) -> Engine:
        return Engine(
            lazy_store(lambda: self.store), self.settings, self._emit_from_step, self._now
        )

    @cached_property
    def _eager_engine(self) -> Engine:
        return Engine(
            self.memory_store, self.settings, self._emit_from_step, self._now, waits=False
        )

    def _emit_from_step(self, event: Any, data: Any, *, cause: Run, **options: Any) -> Emission:
        return self.emit(event, data, cause=cause, **options)

    def _run_eagerly(self, chain: FrozenChain) -> Any:
        """Execute one chain in place, as ``task_always_eager`` does with any task."""
        from celery.canvas import signature

        options = dict(chain.subscription.options)
        result = chain.subscription.task.apply_async(
            args=chain.args,
            task_id=chain.run_id,
            headers={**(options.pop("headers", None) or {}), **chain.headers},
            link_error=[signature(errback, app=self.app) for errback in chain.errbacks or ()],
            **options,
        )
        for link in reversed(chain.chain or []):
            if not result.successful():
                break
            sig = signature(link, app=self.app)
            result = sig.apply(args=() if sig.immutable else (result.result,))
        links = [link["options"]["task_id"] for link in chain.chain or []]
        self.memory_store.forget([chain.run_id, *links])  # the next emit of this id starts afresh
        return result

    # -- doors ---------------------------------------------------------------------------------

    def load(self) -> None:
        """Import the app's task modules and finalise it, once.

        A web process imports no tasks by itself (``autodiscover_tasks`` is lazy), and would fan
        out to nobody in silence.
        """
        if self._loaded:
            return
        with _lock:  # other threads wait: half of the subscribers would be fewer than all
            if self._loaded or self._loading:  # type: ignore[redundant-expr]  # in another thread
                return
            self._loading = True
            try:
                self.app.loader.import_default_modules()
                self.app.finalize()
                self._loaded = True
            finally:
                self._loading = False

    def _load_to_emit(self) -> None:
        self.load()
        if self._loading:  # only the thread that is loading gets here meanwhile
            raise EmitWhileImporting(str(self.app.main))

    def prepare_worker(self) -> None:
        """Make every task of the app able to execute a run; called when a worker starts."""
        self.load()
        self.registry.refresh()
        tasks: Any = self.app.tasks
        for name, task in tasks.items():
            if not name.startswith("celery."):
                self.runs.wrap(task)

    def emit(
        self,
        event: str | BaseModel | Event,
        data: Any = None,
        *,
        delay: float | dt.timedelta | None = None,
        **attributes: Any,
    ) -> Emission:
        """Publish an event to the app's subscribers; see :func:`emit`."""
        self._load_to_emit()
        resume_at = None
        if delay is not None:
            seconds = delay.total_seconds() if isinstance(delay, dt.timedelta) else float(delay)
            if not 0 <= seconds < math.inf:
                raise InvalidEvent(
                    str(event)[:100], f"has the delay {seconds}", "Use seconds, 0 or more."
                )
            resume_at = self.clock() + seconds
        return self.publisher.emit([draft(self.settings, event, data, **attributes)], resume_at)[0]

    def emit_many(self, events: Iterable[Any]) -> list[Emission]:
        """Publish several events in one batch; see :func:`emit_many`."""
        self._load_to_emit()
        drafts: list[Event] = []
        for item in events:
            pair: Any = cast("Any", item) if isinstance(item, tuple) else (item, None)
            if len(pair) != 2:  # noqa: PLR2004 - a name and its data
                raise InvalidEvent(
                    str(pair[0]) if pair else "?",
                    f"is one of {len(pair)} values",
                    "Pass pairs of name and data, typed events, or Event objects.",
                )
            drafts.append(draft(self.settings, *pair))
        return self.publisher.emit(drafts)

    def explain(self, event: str | BaseModel | Event, data: Any = None) -> list[Explanation]:
        """Return for every subscription why it does or does not match; see :func:`explain`."""
        self.load()
        return self.registry.explain(draft(self.settings, event, data))


def get_fanout(app: Celery | None = None) -> Fanout:
    """Return the :class:`Fanout` of an app.

    Args:
        app: the Celery app; by default the current one, and in a thread where none is current the
            only one of the process.

    Raises:
        NoApp: if there is none, or several and none is current.
    """
    found: Celery = app if app is not None else context.app_in_use()
    fanout: Fanout | None = found.__dict__.get(_ATTRIBUTE)
    if fanout is None:
        with _lock:
            fanout = found.__dict__.get(_ATTRIBUTE)
            if fanout is None:
                fanout = found.__dict__[_ATTRIBUTE] = Fanout(found)
    return fanout


@overload
def emit(
    event: BaseModel | Event,
    *,
    id: str | None = None,
    subject: str | None = None,
    source: str | None = None,
    time: dt.datetime | str | None = None,
    delay: float | dt.timedelta | None = None,
    app: Celery | None = None,
) -> Emission: ...


@overload
def emit(
    event: str,
    data: Any = None,
    *,
    id: str | None = None,
    subject: str | None = None,
    source: str | None = None,
    time: dt.datetime | str | None = None,
    delay: float | dt.timedelta | None = None,
    app: Celery | None = None,
) -> Emission: ...


def emit(
    event: str | BaseModel | Event,
    data: Any = None,
    *,
    id: str | None = None,
    subject: str | None = None,
    source: str | None = None,
    time: dt.datetime | str | None = None,
    delay: float | dt.timedelta | None = None,
    app: Celery | None = None,
) -> Emission:
    """Publish an event to all its subscribers, each as its own Celery chain.

    Args:
        event: an event name, an instance of a typed event, or an :class:`Event` to pass on.
        data: JSON data; what subscribers receive. Texts, numbers, lists, dicts with text keys;
            dates, UUIDs, Decimals and enums become texts.
        id: the event's id, at most 1,000 characters; a new one by default. The same name and id
            give the same runs, so a repeat after an error is safe.
        subject: what the event is about, within the source.
        source: where it happened; ``fanout_source`` by default.
        time: when it happened; now by default. A datetime with a time zone, or RFC 3339.
        delay: seconds, or a timedelta, before subscribers start.
        app: the Celery app; the current one by default.

    Returns:
        The event and one handle per run; no runs if nothing subscribes to it.

    Raises:
        InvalidEvent: if name, data, size or an attribute cannot be used. Nothing was published.
        RegistrationError: if a subscription is wrong. Nothing was published.
        EmitError: if publishing was cut short. It says what is known of each run.
    """
    return get_fanout(app).emit(
        event, data, id=id, subject=subject, source=source, time=time, delay=delay
    )


def emit_many(
    events: Iterable[tuple[str, Any] | BaseModel | Event], *, app: Celery | None = None
) -> list[Emission]:
    """Publish several events in one batch.

    All are validated before the first is published.

    Args:
        events: pairs of name and data, typed events, or :class:`Event` objects.
        app: the Celery app; the current one by default.

    Raises:
        InvalidEvent: if one cannot be emitted. Nothing was published.
        RegistrationError: if a subscription is wrong. Nothing was published.
        EmitError: if publishing was cut short, about the first event it concerns.
    """
    return get_fanout(app).emit_many(events)


async def aemit(
    event: str | BaseModel | Event,
    data: Any = None,
    *,
    id: str | None = None,
    subject: str | None = None,
    source: str | None = None,
    time: dt.datetime | str | None = None,
    delay: float | dt.timedelta | None = None,
    app: Celery | None = None,
) -> Emission:
    """Like :func:`emit`, for async code: publishing happens in a thread.

    Context variables, such as the current trace, are those of the caller.
    """
    fanout = get_fanout(app)  # the current app is thread-local
    call = partial(fanout.emit, event, data, delay=delay)
    call = partial(call, id=id, subject=subject, source=source, time=time)
    import asyncio  # costs as much as all the rest of this package

    return await asyncio.to_thread(call)


def explain(
    event: str | BaseModel | Event, data: Any = None, *, app: Celery | None = None
) -> list[Explanation]:
    """Say for every subscription of the app whether and why an event would reach it.

    Args:
        event: an event name, a typed event, or an :class:`Event`.
        data: its data, for filters.
        app: the Celery app; the current one by default.

    Raises:
        InvalidEvent: if the event could not be emitted.
    """
    return get_fanout(app).explain(event, data)


# -- attaching to apps -------------------------------------------------------------------------


def _refresh(sender: Celery | None = None, **_: Any) -> None:
    if sender is not None:
        get_fanout(sender).registry.refresh()


@_state.connect_on_app_finalize
def _on_finalize(app: Celery) -> None:
    # finalisers run in no order, perhaps before those of shared tasks; this signal comes last
    app.on_after_finalize.connect(_refresh, weak=False)


def _refresh_finalized() -> None:
    state: Any = _state
    for app in list(state._get_active_apps()):
        if app.finalized:
            get_fanout(app).registry.refresh()


def _refresh_worker(sender: Any, **_: Any) -> None:
    # tasks that were registered without a new declaration, such as classes; and those whose
    # subscription was removed while runs of theirs are still under way
    get_fanout(sender.app).prepare_worker()


celery_signals.worker_init.connect(_refresh_worker, weak=False)
declared.hooks.append(_refresh_finalized)
context.set_default_emit(emit)
