"""Where the parts are put together, once per app."""

from __future__ import annotations

import os
import threading
import time as clock_module
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

from celery.canvas import signature
from kombu.utils import json as kombu_json

from celery_fanout.app import (
    logs,  # noqa: F401  # pyright: ignore[reportUnusedImport] - listens to the signals
)
from celery_fanout.app.ledger_parts import Level2
from celery_fanout.app.once import once
from celery_fanout.emitting.delivery import Publication, deliver
from celery_fanout.emitting.drafting import draft, times_of
from celery_fanout.emitting.fan_in import fan_in_message, fan_in_of
from celery_fanout.emitting.publishing import Publisher
from celery_fanout.exceptions import EmitWhileImporting, InvalidEvent, StoreUnsupported
from celery_fanout.keeping import (
    failures,  # noqa: F401  # pyright: ignore[reportUnusedImport] - registers the errback task
)
from celery_fanout.keeping.requests import supervise_requests
from celery_fanout.model.settings import Settings
from celery_fanout.operating.explaining import foretell
from celery_fanout.running.current import app_in_use, current_run
from celery_fanout.running.execution import Engine
from celery_fanout.running.suspending import Suspension
from celery_fanout.running.wrapping import Runs
from celery_fanout.stores.memory.checkpoints import MemoryStore
from celery_fanout.stores.opening import choose_checkpoint_store, choose_ledger, lazy_store
from celery_fanout.subscribing.registry import Explanation, Registry

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Generator, Iterable

    from celery import Celery
    from pydantic import BaseModel

    from celery_fanout.emitting.chains import FrozenChain
    from celery_fanout.emitting.emission import Emission
    from celery_fanout.model.events import Event
    from celery_fanout.model.run import Run
    from celery_fanout.operating.control import RunControl
    from celery_fanout.stores.checkpoints import CheckpointStore
    from celery_fanout.stores.ledger import Ledger

__all__ = ["Fanout", "get_fanout"]

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
        self.executor = Runs(self._engine, self.suspension)
        self.registry = Registry(app, self.executor.wrap)
        self._loaded = False
        self._loading = False
        self._stand_in: Level2 | None = None

    def _now(self) -> float:
        return self.clock()

    @once
    def settings(self) -> Settings:
        """The app's ``fanout_*`` settings, read once.

        Raises:
            ConfigurationError: if one is unknown or cannot be used.
        """
        return Settings.from_app(self.app)

    @once
    def store(self) -> CheckpointStore:
        """Where step results are kept.

        Raises:
            StoreUnsupported: if the result backend cannot be read back.
        """
        return choose_checkpoint_store(self.app, self.settings, self.memory_store)

    @once
    def memory_store(self) -> MemoryStore:
        """The store of eager runs, and of ``fanout_store_url = "memory://"``."""
        return MemoryStore(self.settings.checkpoint_expires, self._now)

    @once
    def publisher(self) -> Publisher:
        """Publishes events. Tests put another in its place."""
        return self._own_publisher

    @once
    def _own_publisher(self) -> Publisher:
        return Publisher(
            self.app,
            self.settings,
            self.registry,
            self._run_eagerly,
            self.suspension.hop,
            self._chosen_ledger,
        )

    @once
    def _chosen_ledger(self) -> Ledger | None:
        return choose_ledger(self.app, self.settings, self._now)

    @property
    def level2(self) -> Level2 | None:
        """What works with the ledger; ``None`` on level 1."""
        return self._stand_in or self._own_level2

    @once
    def _own_level2(self) -> Level2 | None:
        if self._chosen_ledger is None:
            return None
        return Level2(
            self.app, self.settings, self.registry, self._own_publisher, self._chosen_ledger
        )

    @contextmanager
    def working_with(self, level2: Level2) -> Generator[None]:
        """Use another ledger in a block, whatever the app's own store is: for tests."""
        before, self._stand_in = self._stand_in, level2
        captures = self.__dict__.pop("publisher", None)
        try:
            yield
        finally:
            self._stand_in = before
            self.__dict__.pop("publisher", None)
            if captures is not None:
                self.__dict__["publisher"] = captures

    @property
    def ledger(self) -> Ledger:
        """The ledger.

        Raises:
            StoreUnsupported: on level 1.
        """
        return self._level2("the ledger").ledger

    @property
    def runs(self) -> RunControl:
        """To list, show, cancel, retry, replay and rerun runs, and to pause subscriptions.

        Raises:
            StoreUnsupported: on level 1.
        """
        level2 = self._level2("runs")
        self.load()  # what a subscription id means is known from the task modules
        return level2.control

    def _level2(self, feature: str) -> Level2:
        if self.level2 is None:
            raise StoreUnsupported(
                f"The store of the app {self.app.main!r}",
                feature,
                "It needs level 2: a Redis result backend, or fanout_store_url with a Redis URL.",
            )
        return self.level2

    def _engine(self, eager: bool) -> Engine:  # noqa: FBT001 - a callback with one argument
        return self._eager_engine if eager else self._worker_engine

    @once
    def _worker_engine(self) -> Engine:
        store = lazy_store(lambda: self.store)
        engine = Engine(store, self.settings, self.emit_from_step, self._now)
        return engine if self.level2 is None else self.level2.engine(engine)

    @once
    def _eager_engine(self) -> Engine:
        return Engine(self.memory_store, self.settings, self.emit_from_step, self._now, waits=False)

    def emit_from_step(self, event: Any, data: Any, *, cause: Run, **options: Any) -> Emission:
        """Emit what a step of a run emits."""
        # its checkpoint says that it was emitted, so it does not wait for a transaction
        options.setdefault("delivery", "now")
        return self.emit(event, data, cause=cause, **options)

    def _run_eagerly(self, chain: FrozenChain) -> Any:
        """Execute one chain in place, as ``task_always_eager`` does with any task."""
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
                with _no_django_checks():
                    self.app.loader.import_default_modules()
                self.app.finalize()
                self._loaded = True
            finally:
                self._loading = False

    @property
    def loading(self) -> bool:
        """Whether :meth:`load` is under way: not all subscriptions are known yet."""
        return self._loading

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
                self.executor.wrap(task)
                if self.level2 is not None:
                    supervise_requests(task, self.level2.supervisor)

    def emit(
        self,
        event: str | BaseModel | Event,
        data: Any = None,
        *,
        delay: float | dt.timedelta | None = None,
        expires: float | dt.timedelta | None = None,
        then: Any = None,
        delivery: str | None = None,
        using: str | None = None,
        cause: Run | None = None,
        **attributes: Any,
    ) -> Emission:
        """Publish an event to the app's subscribers; see :func:`emit`."""
        self._load_to_emit()
        waits, patience = times_of(event, delay, expires)
        cause = cause or current_run()
        drafted = draft(self.settings, event, data, cause=cause, **attributes)
        needs_ledger = patience is not None or then is not None
        if needs_ledger and not self._records and not self.app.conf.task_always_eager:
            self._level2("emit(expires=)" if then is None else "emit(then=)")
        called = "" if then is None else fan_in_message(drafted.name, then)
        publication = Publication(self, [drafted], waits, patience, called)
        return deliver(publication, delivery, using)[0]

    def check(self, publication: Publication) -> None:
        """Raise what publishing would raise that does not depend on when it happens."""
        found = self._own_publisher if self._stand_in is None else self._stand_in.publisher
        found.check(publication.events)

    def publish(self, publication: Publication) -> list[Emission]:
        """Publish events that were checked before, at once."""
        self._load_to_emit()  # in a relay nothing else does, and it would fan out to nobody
        events, then = publication.events, publication.then
        if self._records:
            return self._level2("emit").emit(
                events, delay=publication.delay, expires=publication.expires, then=then
            )
        delay = publication.delay
        emissions = self.publisher.emit(events, None if delay is None else self.clock() + delay)
        if then and self.app.conf.task_always_eager:
            called = signature(kombu_json.loads(then)["signature"], app=self.app)
            called.apply(() if called.immutable else (fan_in_of(emissions[0]),))
        return emissions

    @property
    def _records(self) -> bool:
        """Whether emissions go to the ledger: not where subscribers run in place, or in a test."""
        if self._stand_in is not None and "publisher" not in self.__dict__:
            return True
        eager = self.app.conf.task_always_eager
        return not self._captured and not eager and self.level2 is not None

    @property
    def _captured(self) -> bool:
        return self.publisher is not self._own_publisher

    @property
    def in_test(self) -> bool:
        """Whether a test records what is emitted, in place of publishing it."""
        return self._stand_in is not None or self._captured

    def emit_many(
        self, events: Iterable[Any], *, delivery: str | None = None, using: str | None = None
    ) -> list[Emission]:
        """Publish several events in one batch; see :func:`emit_many`."""
        self._load_to_emit()
        cause = current_run()
        drafts: list[Event] = []
        for item in events:
            pair: Any = cast("Any", item) if isinstance(item, tuple) else (item, None)
            if len(pair) != 2:  # noqa: PLR2004 - a name and its data
                raise InvalidEvent(
                    str(pair[0]) if pair else "?",
                    f"is one of {len(pair)} values",
                    "Pass pairs of name and data, typed events, or Event objects.",
                )
            drafts.append(draft(self.settings, *pair, cause=cause))
        if not drafts:
            return []
        return deliver(Publication(self, drafts), delivery, using)

    def explain(self, event: str | BaseModel | Event, data: Any = None) -> list[Explanation]:
        """Return for every subscription why it does or does not match; see :func:`explain`."""
        self.load()
        level2 = self.level2
        drafted = draft(self.settings, event, data, cause=current_run())
        return foretell(self.registry, drafted, None if level2 is None else level2.ledger)


@contextmanager
def _no_django_checks() -> Generator[None]:
    """Keep Celery from running Django's system checks, as it does before it imports tasks.

    It is meant for workers, which have run them by then; here it would be the first emit that does,
    in the middle of a request.
    """
    name = "CELERY_SKIP_CHECKS"
    before = os.environ.get(name)
    os.environ[name] = before or "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]


def get_fanout(app: Celery | None = None) -> Fanout:
    """Return the :class:`Fanout` of an app.

    Args:
        app: the Celery app; by default the current one, and in a thread where none is current the
            only one of the process.

    Raises:
        NoApp: if there is none, or several and none is current.
    """
    found: Celery = app if app is not None else app_in_use()
    fanout: Fanout | None = found.__dict__.get(_ATTRIBUTE)
    if fanout is None:
        with _lock:
            fanout = found.__dict__.get(_ATTRIBUTE)
            if fanout is None:
                fanout = found.__dict__[_ATTRIBUTE] = Fanout(found)
    return fanout
