"""Publishing after a commit: what Django runs then, and what it leaves out.

Whether to wait is decided in ``delivery.py``. There is one callback of ``transaction.on_commit``
for each ``emit()``, so that the roll-back of a savepoint drops its own events and no others.

Django stops at the first callback that raises. Ours never do, but somebody else's would cost the
events behind it: so whatever is left of ours when Django has run the callbacks of a commit is
published then. There too, after all of them, an error is raised with
``fanout_on_publish_error = "raise"``.
"""

from __future__ import annotations

import contextvars
import logging
import sys
import threading
import time
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

from django.db import connections

from celery_fanout.app.fanout import get_fanout
from celery_fanout.contrib.django.outbox.rows import write_rows
from celery_fanout.contrib.django.signals import event_publish_failed
from celery_fanout.emitting.emission import Emission
from celery_fanout.exceptions import INTERRUPTS, EmitError
from celery_fanout.model.failpoints import hit

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from django.db.backends.base.base import BaseDatabaseWrapper

    from celery_fanout.emitting.delivery import Draft
    from celery_fanout.model.events import Event
    from celery_fanout.model.settings import Settings

# not Celery's get_logger: its loggers say nothing in a process that has no logging set up
logger = logging.getLogger("celery_fanout.emit")

T = TypeVar("T")


class AfterCommit:
    """The callback of one ``emit()``.

    Args:
        draft: what to emit.
        connection: whose commit it waits for.

    Attributes:
        emissions: what ``emit()`` has returned; filled in when the events are published.
        done: whether it was called.
        error: what whoever committed should hear of.
    """

    # Django logs it, by this name, should it raise
    __qualname__ = "AfterCommit"

    def __init__(self, draft: Draft, connection: BaseDatabaseWrapper) -> None:
        self.draft = draft
        self.connection = connection
        self.emissions = [Emission(event, [], published=False) for event in draft.events]
        self.done = False
        self.error: BaseException | None = None
        # the trace, and what else is current where the event was emitted
        self._context = contextvars.copy_context()

    def __call__(self) -> None:
        """Publish; does nothing the second time."""
        if self.done:
            return
        self.done = True
        hit("emit.after_commit")
        try:
            self._context.run(self._emit)
        except INTERRUPTS as exc:
            self._failed(exc)
            self.error = exc  # a time limit ends the task, whatever becomes of its events
        except Exception as exc:  # noqa: BLE001 - it has committed, and others wait for their turn
            self._failed(exc)

    def _emit(self) -> None:
        passed = max(0.0, time.time() - self.draft.emitted)
        emissions = self.draft.emit(passed)
        for waiting, published in zip(self.emissions, emissions, strict=True):
            waiting.runs[:] = published.runs
            # frozen for those who were handed it, and they hold this very object
            object.__setattr__(waiting, "published", True)

    def _failed(self, error: Exception) -> None:
        if not keep_after(self.draft, error):
            settings = settings_of(self.draft)
            self.error = error if settings.on_publish_error == "raise" else None

    def waits(self) -> bool:
        """Whether it was neither called nor rolled back."""
        return not self.done and any(call is self for call in _callbacks(self.connection))


def settings_of(draft: Draft) -> Settings:
    """Return the settings of the app that publishes."""
    settings: Settings = get_fanout(draft.fanout.app).settings
    return settings


def wait_for_commit(draft: Draft, connection: BaseDatabaseWrapper) -> AfterCommit:
    """Publish after the transaction that is under way has committed."""
    callback = AfterCommit(draft, connection)
    connection.on_commit(callback, robust=True)
    _see_to_all(connection)
    return callback


def _callbacks(connection: BaseDatabaseWrapper) -> list[Any]:
    return [entry[1] for entry in connection.run_on_commit]


def _see_to_all(connection: Any) -> None:
    """Have :func:`_finish` called after the callbacks of each commit of a connection."""
    name = "run_and_clear_commit_hooks"
    if name in vars(connection):
        return
    run_callbacks: Callable[[], None] = getattr(connection, name)

    def run_all() -> None:
        ours = [call for call in _callbacks(connection) if isinstance(call, AfterCommit)]
        try:
            run_callbacks()
        finally:
            for callback in ours:
                if callback not in _callbacks(connection):  # it has not even begun with them
                    callback()
        errors = [callback.error for callback in ours if callback.error is not None]
        if errors:
            raise errors[0]

    setattr(connection, name, run_all)


def keep_after(draft: Draft, error: Exception) -> bool:
    """Tell of and count what failed after the commit; keep it if the settings say so.

    Returns:
        Whether it is in the outbox now.
    """
    settings = settings_of(draft)
    kept = False
    if settings.on_publish_error == "outbox":
        kept = _keep(draft, settings.outbox_database)
    # no traceback: texts of errors may quote data
    reason = error.reason if isinstance(error, EmitError) else type(error).__name__
    for event in draft.events:
        logger.error(
            "Event %s[%s] was not published after the commit: %s.%s",
            event.name,
            event.id,
            reason,
            " The outbox has it now" if kept else "",
            extra={"action": "event_publish_failed"},
        )
    _count_failed(draft.events, kept=kept)
    event_publish_failed.send(
        sender=draft.fanout.app,
        events=list(draft.events),
        exception=error,
        kept=kept,
    )
    return kept


def _count_failed(events: Sequence[Event], *, kept: bool) -> None:
    metrics: Any = sys.modules.get("opentelemetry.metrics")  # for projects that have it
    if metrics is not None:
        for event in events:
            _counter(metrics).add(1, {"event": event.name, "kept": kept})


@cache  # its library complains of one that is made twice
def _counter(metrics: Any) -> Any:
    return metrics.get_meter("celery_fanout").create_counter(
        "celery_fanout.publish_failures",
        unit="{event}",
        description="Events that could not be published after their transaction had committed.",
    )


def _keep(draft: Draft, using: str) -> bool:
    def write() -> bool:
        try:
            write_rows(draft, using)
        except Exception as exc:  # noqa: BLE001 - it must not hide why it was tried
            logger.error("The outbox did not take it: %s", type(exc).__name__)  # noqa: TRY400
            return False
        return True

    connection = connections[using]
    if not connection.in_atomic_block and connection.get_autocommit():
        return write()
    # a transaction on this database that may yet roll back, and the event's own has committed
    return _in_another_thread(write, using)


def _in_another_thread(call: Callable[[], T], using: str) -> T:
    """Call a function where it has a connection of its own."""
    results: list[T] = []

    def run() -> None:
        try:
            results.append(call())
        finally:
            connections[using].close()

    thread = threading.Thread(target=run, name="celery-fanout-outbox")
    thread.start()
    thread.join()
    return results[0]
