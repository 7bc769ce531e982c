"""Publishing rows of the outbox: in batches where that is possible, and what became of each."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from amqp.exceptions import ChannelError
from kombu.exceptions import OperationalError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from celery_fanout.contrib.django.models import OutboxEvent
from celery_fanout.contrib.django.outbox.rows import read_row
from celery_fanout.emitting.delivery import Draft
from celery_fanout.exceptions import INTERRUPTS, EmitError, StoreUnavailable
from celery_fanout.exceptions.describing import causes_of
from celery_fanout.model.failpoints import hit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence


#: What a broker or a ledger that is away is known by; OSError: what sockets and resolvers raise.
AWAY = (StoreUnavailable, OperationalError, RedisConnectionError, RedisTimeoutError, OSError)


@dataclass
class Dispatched:
    """What became of rows.

    Attributes:
        published: those that were published.
        failed: those that could not be, each with its error. That counts as an attempt.
        away: those that met a broker or a ledger that is away. That does not.
        left: those that were not tried.
        reason: the error of what is away; an empty text if nothing is.
    """

    published: list[OutboxEvent] = field(default_factory=list[OutboxEvent])
    failed: list[tuple[OutboxEvent, Exception]] = field(
        default_factory=list[tuple[OutboxEvent, Exception]]
    )
    away: list[OutboxEvent] = field(default_factory=list[OutboxEvent])
    left: list[OutboxEvent] = field(default_factory=list[OutboxEvent])
    reason: str = ""


@dataclass(frozen=True)
class _Parcel:
    rows: list[OutboxEvent]
    draft: Draft
    passed: float = 0.0

    def singles(self, rows: Sequence[OutboxEvent]) -> Iterator[_Parcel]:
        """Yield one parcel for each of these rows, for others must not suffer from one."""
        chosen = set(rows)
        for row, event in zip(self.rows, self.draft.events, strict=True):
            if row in chosen:
                found = self.draft
                yield _Parcel([row], Draft(found.fanout, [event], trace=found.trace))


def publish_rows(rows: Sequence[OutboxEvent], may_go_on: Callable[[], bool]) -> Dispatched:
    """Publish rows, those of one app in one batch.

    Args:
        rows: the rows.
        may_go_on: asked before each batch; if not, what is left is not tried.
    """
    done = Dispatched()
    _send_all(_parcels(rows, done), done, may_go_on)
    return done


def _parcels(rows: Sequence[OutboxEvent], done: Dispatched) -> list[_Parcel]:
    """Read rows, and put together what can be published in one go."""
    together: dict[Any, _Parcel] = {}
    alone: list[_Parcel] = []
    for row in rows:
        try:
            found, passed = read_row(row)
        except Exception as exc:  # noqa: BLE001 - nothing that lies in a table may end a relay
            done.failed.append((row, exc))
            continue
        if found.delay is not None or found.expires is not None or found.then:
            alone.append(_Parcel([row], found, passed))
            continue
        # events of several requests are of several traces, and a draft is in one
        parcel = together.setdefault(
            (id(found.fanout), found.trace),
            _Parcel([], Draft(found.fanout, [], trace=found.trace)),
        )
        parcel.rows.append(row)
        parcel.draft.events.extend(found.events)
    return [*together.values(), *alone]


def _send_all(
    parcels: list[_Parcel] | Iterator[_Parcel], done: Dispatched, may_go_on: Callable[[], bool]
) -> None:
    for parcel in parcels:
        if done.reason:  # it would be away for this one too, and each try may take seconds
            done.away += parcel.rows
        elif not may_go_on():
            done.left += parcel.rows
        else:
            _send(parcel, done, may_go_on)


def _send(parcel: _Parcel, done: Dispatched, may_go_on: Callable[[], bool]) -> None:
    hit("relay.before_publish")
    try:
        parcel.draft.emit(parcel.passed)
    except INTERRUPTS:
        raise
    except Exception as exc:  # noqa: BLE001 - a broker's library raises errors of its own
        unsent = _unsent(parcel, exc)
        kept = set(unsent)
        done.published += [row for row in parcel.rows if row not in kept]
        if is_away(exc):
            done.away += unsent
            done.reason = problem_of(exc)
        elif len(unsent) == 1:
            done.failed.append((unsent[0], exc))
        else:
            _send_all(parcel.singles(unsent), done, may_go_on)
    else:
        done.published += parcel.rows
    hit("relay.after_publish")


def _unsent(parcel: _Parcel, exc: Exception) -> list[OutboxEvent]:
    """Return the rows that an error concerns."""
    if not isinstance(exc, EmitError):
        return parcel.rows
    ids = {exc.event_id, *exc.others}
    pairs = zip(parcel.rows, parcel.draft.events, strict=True)
    return [row for row, event in pairs if event.id in ids] or parcel.rows


def is_away(exc: Exception) -> bool:
    """Whether an error says that the broker or the ledger is away, and nothing about the event."""
    causes = list(causes_of(exc))
    if any(isinstance(cause, ChannelError) for cause in causes):
        # RabbitMQ answers, and refuses this one: a queue is there with other arguments, perhaps.
        # If it refuses us altogether, nothing has left for it.
        tried = [cause for cause in causes if isinstance(cause, EmitError)]
        return bool(tried) and len(tried[0].unpublished) == len(tried[0].states)
    return any(isinstance(cause, AWAY) for cause in causes)


def problem_of(exc: Exception) -> str:
    """Return an error as text: of an :class:`EmitError`, what it comes from."""
    if isinstance(exc, EmitError):
        return exc.reason
    return f"{type(exc).__name__}: {exc}"
