"""Where the parts are put together, once per app."""

from __future__ import annotations

import os
import time as clock_module
from concurrent.futures import (
    thread,  # noqa: F401  # pyright: ignore[reportUnusedImport] - redis needs it, at exit too late
)
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

from celery_fanout.app import (
    logs,  # noqa: F401  # pyright: ignore[reportUnusedImport] - listens to the signals
)
from celery_fanout.app.ledger_parts import Level2
from celery_fanout.app.once import once
from celery_fanout.emitting.broker.templates import Templates
from celery_fanout.emitting.delivery import Draft, installed
from celery_fanout.emitting.drafting import draft_event, times_of
from celery_fanout.emitting.emitters import BrokerEmitter, EagerEmitter
from celery_fanout.emitting.fan_in import fan_in_message
from celery_fanout.emitting.freezing import Freezer
from celery_fanout.emitting.publishing import Publisher
from celery_fanout.exceptions import EmitWhileImporting, InvalidEvent, StoreUnsupported
from celery_fanout.keeping.supervisor import supervise_requests
from celery_fanout.model.locks import fork_safe_lock
from celery_fanout.model.settings import Settings
from celery_fanout.operating.explaining import explain
from celery_fanout.operating.redaction import redactor_of
from celery_fanout.running.current import app_in_use, current_run
from celery_fanout.running.execution import Engine
from celery_fanout.running.suspending import Republisher
from celery_fanout.running.wrapping import TaskWrapper
from celery_fanout.stores.choosing import choose_checkpoint_store, choose_ledger, lazy_store
from celery_fanout.stores.memory.checkpoints import MemoryStore
from celery_fanout.subscribing.registry import Explanation, Registry

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Generator, Iterable

    from celery import Celery
    from pydantic import BaseModel

    from celery_fanout.emitting.delivery import Emitter
    from celery_fanout.emitting.emission import Emission
    from celery_fanout.model.events import Event
    from celery_fanout.model.run import Run
    from celery_fanout.operating.control import RunControl
    from celery_fanout.operating.limits import LimitControl
    from celery_fanout.stores.checkpoints import CheckpointStore
    from celery_fanout.stores.ledger import Ledger

_ATTRIBUTE = "_celery_fanout"
_lock = fork_safe_lock()


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
        self.republisher = Republisher(app, self._now)
        self.wrapper = TaskWrapper(self._engine)
        self.registry = Registry(app, self.wrapper.wrap)
        self._loaded = False
        self._loading_process = 0  # a forked process imports what another thread was importing

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
    def _chosen_ledger(self) -> Ledger | None:
        return choose_ledger(self.app, self.settings, self._now)

    @once
    def templates(self) -> Templates:
        """What is the same in all messages of a subscription."""
        return Templates(self.app, None if self._chosen_ledger is None else self.settings.queue)

    @once
    def freezer(self) -> Freezer:
        """Makes the chains of events; in a simulation, the simulation's."""
        ledger = self._chosen_ledger
        keeps_results = ledger is not None and self.settings.results == "ledger"
        return Freezer(self.app, self.registry, self.templates, ledger, keeps_results)

    @once
    def publisher(self) -> Publisher:
        """Publishes chains."""
        return Publisher(self.app, self.settings, self.templates, self._chosen_ledger)

    @once
    def level2(self) -> Level2 | None:
        """What works with the ledger; ``None`` on level 1. In a simulation, the simulation's."""
        if self._chosen_ledger is None:
            return None
        return Level2(self, self._chosen_ledger, self.freezer, self.publisher, self._eager_emitter)

    @once
    def emitter(self) -> Emitter:
        """What emits: to the broker on level 1, to the ledger on level 2, or to a test."""
        if self.level2 is not None:
            return self.level2.emitter
        eager, hop = self._eager_emitter, self.republisher.hop
        return BrokerEmitter(self.app, self.freezer, self.publisher, eager, self._now, hop)

    @once
    def _eager_emitter(self) -> EagerEmitter:
        return EagerEmitter(self.app, self.freezer, self.memory_store, self._now)

    @contextmanager
    def emitting_to(self, emitter: Emitter, level2: Level2 | None = None) -> Generator[None]:
        """Put another emitter in place for a block: for tests.

        Args:
            emitter: what emits meanwhile.
            level2: what works with the ledger meanwhile; as before by default.
        """
        replaced: dict[str, Any] = {"emitter": emitter}
        if level2 is not None:
            replaced.update(level2=level2, freezer=level2.freezer)
        parts = vars(self)  # parts that nobody has needed yet are not built for this
        before = {name: parts[name] for name in replaced if name in parts}
        parts.update(replaced)
        try:
            yield
        finally:
            for name in replaced:
                del parts[name]
            parts.update(before)

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

    @property
    def limits(self) -> LimitControl:
        """To list the limits of flow control, and to change their numbers.

        Raises:
            StoreUnsupported: on level 1.
        """
        level2 = self._level2("limits")
        self.load()  # the limits are in the task modules
        return level2.limits

    def _level2(self, feature: str) -> Level2:
        if self.level2 is None:
            raise StoreUnsupported.on_level_1(f"The store of the app {self.app.main!r}", feature)
        return self.level2

    def _engine(self, eager: bool) -> Engine:  # noqa: FBT001 - a callback with one argument
        return self._eager_engine if eager else self._worker_engine

    @once
    def _worker_engine(self) -> Engine:
        store = lazy_store(lambda: self.store)
        engine = Engine(
            store,
            self.settings,
            self.emit_from_step,
            self._now,
            republish=self.republisher.republish,
        )
        return engine if self.level2 is None else self.level2.engine(engine)

    @once
    def _eager_engine(self) -> Engine:
        return Engine(self.memory_store, self.settings, self.emit_from_step, self._now, waits=False)

    def emit_from_step(self, event: Any, data: Any, *, cause: Run, **options: Any) -> Emission:
        """Emit what a step of a run emits."""
        # its checkpoint says that it was emitted, so it does not wait for a transaction
        options.setdefault("delivery", "now")
        return self.emit(event, data, cause=cause, **options)

    # -- public methods ------------------------------------------------------------------------

    def load(self) -> None:
        """Import the app's task modules and finalise it, once.

        A web process imports no tasks by itself (``autodiscover_tasks`` is lazy), and would fan
        out to nobody in silence.
        """
        if self._loaded:
            return
        with _lock:  # other threads wait: half of the subscribers would be fewer than all
            if self._loaded or self.loading:  # type: ignore[redundant-expr]  # in another thread
                return
            self._loading_process = os.getpid()
            try:
                with _no_django_checks():
                    self.app.loader.import_default_modules()
                self.app.finalize()
                self._loaded = True
            finally:
                self._loading_process = 0

    @property
    def loading(self) -> bool:
        """Whether :meth:`load` is under way: not all subscriptions are known yet."""
        return self._loading_process == os.getpid()

    def load_to_emit(self) -> None:
        """Import the app's task modules: without them nobody would get an event.

        Raises:
            EmitWhileImporting: if they are being imported.
        """
        self.load()
        if self.loading:  # only the thread that is loading gets here meanwhile
            raise EmitWhileImporting(str(self.app.main))

    def prepare_worker(self) -> None:
        """Make every task of the app able to execute a run; called when a worker starts."""
        self.load()
        self.registry.refresh()
        tasks: Any = self.app.tasks
        for name, task in tasks.items():
            if not name.startswith("celery."):
                self.wrapper.wrap(task)
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
        self.load_to_emit()
        delay_seconds, expires_seconds = times_of(event, delay, expires)
        drafted = draft_event(
            self.settings, event, data, cause=cause or current_run(), **attributes
        )
        needs_ledger = then is not None or expires_seconds is not None
        if needs_ledger and not self.app.conf.task_always_eager:
            self._level2("emit(expires=)" if then is None else "emit(then=)")
        fan_in = "" if then is None else fan_in_message(drafted.name, then)
        draft = Draft(self, [drafted], delay_seconds, expires_seconds, fan_in)
        [emission] = installed.deliverer.deliver(draft, delivery, using)
        return emission

    def emit_many(
        self, events: Iterable[Any], *, delivery: str | None = None, using: str | None = None
    ) -> list[Emission]:
        """Publish several events in one batch; see :func:`emit_many`."""
        self.load_to_emit()
        cause = current_run()
        drafted: list[Event] = []
        for item in events:
            if isinstance(item, (str, bytes)):  # of a text each letter, of a mapping each key
                raise InvalidEvent(
                    str(item),
                    "is a name without its data",
                    "Pass pairs of name and data; of a mapping, its items().",
                )
            pair: Any = cast("Any", item) if isinstance(item, tuple) else (item, None)
            if len(pair) != 2:  # noqa: PLR2004 - a name and its data
                raise InvalidEvent(
                    str(pair[0]) if pair else "?",
                    f"is one of {len(pair)} values",
                    "Pass pairs of name and data, typed events, or Event objects.",
                )
            drafted.append(draft_event(self.settings, *pair, cause=cause))
        if not drafted:
            return []
        return installed.deliverer.deliver(Draft(self, drafted), delivery, using)

    def explain(self, event: str | BaseModel | Event, data: Any = None) -> list[Explanation]:
        """Return for every subscription why it does or does not match; see :func:`explain`."""
        self.load()
        level2 = self.level2
        drafted = draft_event(self.settings, event, data, cause=current_run())
        ledger = None if level2 is None else level2.ledger
        return explain(self.registry, drafted, ledger, redactor_of(self.settings))


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
    chosen: Celery = app if app is not None else app_in_use()
    fanout: Fanout | None = chosen.__dict__.get(_ATTRIBUTE)
    if fanout is None:
        with _lock:
            fanout = chosen.__dict__.get(_ATTRIBUTE)
            if fanout is None:
                fanout = chosen.__dict__[_ATTRIBUTE] = Fanout(chosen)
    return fanout
