"""When an event that was emitted in a Django project is published."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from asgiref.sync import sync_to_async
from django.db import DEFAULT_DB_ALIAS, OperationalError, ProgrammingError, connections

from celery_fanout.contrib.django.commits import (
    AfterCommit,
    keep_after,
    settings_of,
    wait_for_commit,
)
from celery_fanout.contrib.django.exceptions import (
    NoCommitToWaitFor,
    NoOutbox,
    NotInTransaction,
)
from celery_fanout.contrib.django.outbox.rows import write_rows
from celery_fanout.emitting.delivery import Deliverer, installed
from celery_fanout.emitting.emission import Emission
from celery_fanout.exceptions import EmitError, InvalidEvent

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery_fanout.emitting.delivery import Draft, Owner

T = TypeVar("T")


class DjangoDeliverer(Deliverer):
    """Publishes after a commit, by way of the outbox, or at once."""

    def __init__(self) -> None:
        self._watches: list[_Watch] = []

    def deliver(self, draft: Draft, delivery: str | None, using: str | None) -> list[Emission]:
        """Emit a draft now, or see to it that it is emitted later.

        Args:
            draft: what to emit.
            delivery: ``"on_commit"``, ``"outbox"`` or ``"now"``; ``None``: ``fanout_delivery``.
            using: the alias of the database whose transaction counts.

        Raises:
            NotInTransaction: for the outbox, outside of a transaction.
            NoCommitToWaitFor: if commits of that database cannot be waited for.
            NoOutbox: if that database has no table for the outbox.
        """
        settings = settings_of(draft)
        wanted = delivery or settings.delivery
        if wanted == "now":
            return draft.emit()
        if wanted == "on_commit":
            return self._on_commit(draft, using or DEFAULT_DB_ALIAS)
        if wanted == "outbox":
            return self._into_outbox(draft, using or settings.outbox_database)
        raise InvalidEvent(
            draft.events[0].name,
            f"has the delivery {wanted!r}",
            'Use "on_commit", "outbox" or "now".',
        )

    def _on_commit(self, draft: Draft, using: str) -> list[Emission]:
        connection = connections[using]
        if connection.in_atomic_block:
            return self._wait(draft, using)
        if _commits_by_hand(connection):
            raise NoCommitToWaitFor(draft.events[0].name, using)
        try:
            return draft.emit()
        except EmitError as exc:
            # what it tells of is committed already, as it is after a transaction
            if settings_of(draft).on_publish_error != "outbox":
                raise
            if not keep_after(draft, exc):
                raise
            return _waiting(draft)

    def _wait(self, draft: Draft, using: str) -> list[Emission]:
        draft.check()
        callback = wait_for_commit(draft, connections[using])
        for watch in self._watches:
            watch.note(callback)
        return callback.emissions

    def _into_outbox(self, draft: Draft, using: str) -> list[Emission]:
        connection = connections[using]
        settings = settings_of(draft)
        if settings.outbox_require_atomic and not _is_in_transaction(connection):
            raise NotInTransaction(draft.events[0].name, using)
        if draft.fanout.emitter.in_test and connection.in_atomic_block:
            return self._wait(draft, using)
        draft.check()
        try:
            write_rows(draft, using)
        except (OperationalError, ProgrammingError) as exc:
            if not _tells_of_no_table(exc):
                raise
            raise NoOutbox(draft.events[0].name, using) from exc
        return _waiting(draft)

    async def in_thread(self, call: Callable[[], T]) -> T:
        """Call a function in the thread where the ORM's transactions are."""
        return await sync_to_async(call, thread_sensitive=True)()

    def watch(self, fanout: Owner) -> Callable[[bool], None]:
        """For tests; see :class:`celery_fanout.emitting.delivery.Deliverer`."""
        watch = _Watch(fanout)
        self._watches.append(watch)

        def emit_waiting(final: bool) -> None:  # noqa: FBT001 - as the protocol has it
            watch.emit_waiting(final)
            if final and watch in self._watches:
                self._watches.remove(watch)

        return emit_waiting


class _Watch:
    """Notes what begins to wait for a commit while a test looks."""

    def __init__(self, fanout: Owner) -> None:
        self._fanout = fanout
        self._noted: list[AfterCommit] = []
        self._depths = {
            id(connection): len(connection.atomic_blocks)
            for connection in connections.all(initialized_only=True)
        }

    def note(self, callback: AfterCommit) -> None:
        if callback.draft.fanout is self._fanout:
            self._noted.append(callback)

    def emit_waiting(self, final: bool) -> None:  # noqa: FBT001 - see above
        for callback in list(self._noted):
            if callback.waits() and (final or not self._is_inside(callback.connection)):
                callback()

    def _is_inside(self, connection: Any) -> bool:
        """Whether a transaction is under way that was not when the test began to look."""
        own = len([block for block in connection.atomic_blocks if _is_of_test(block)])
        return len(connection.atomic_blocks) > self._depths.get(id(connection), own)


def _waiting(draft: Draft) -> list[Emission]:
    return [Emission(event, [], published=False) for event in draft.events]


def _tells_of_no_table(error: BaseException) -> bool:
    """Whether a database's error says so. It cannot be asked: its transaction is over."""
    code = getattr(error.__cause__, "sqlstate", None) or getattr(error.__cause__, "pgcode", None)
    return code == "42P01" or error.args[:1] == (1146,) or "no such table" in str(error)


def _is_in_transaction(connection: Any) -> bool:
    """Whether a transaction is under way, besides that which a TestCase runs in."""
    blocks = connection.atomic_blocks
    if blocks:
        return not _is_of_test(blocks[-1])
    return bool(connection.in_atomic_block) or _commits_by_hand(connection)


def _is_of_test(block: Any) -> bool:
    """Whether a block of ``atomic()`` is one that a TestCase runs in."""
    return bool(block._from_testcase)  # noqa: SLF001 - as Django asks for ``durable=True``


def _commits_by_hand(connection: Any) -> bool:
    """Whether autocommit is off. Asks no server: a connection is not opened to emit."""
    if connection.connection is None:
        return not connection.settings_dict["AUTOCOMMIT"]
    return not connection.autocommit


def install() -> None:
    """Attach ``emit()`` to Django's transactions, once."""
    if not isinstance(installed.deliverer, DjangoDeliverer):
        installed.deliverer = DjangoDeliverer()
