"""Recording what is emitted instead of publishing it."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, SupportsIndex, cast, overload

from celery_fanout.app.fanout import get_fanout
from celery_fanout.emitting.chains import chain_for
from celery_fanout.emitting.delivery import installed
from celery_fanout.emitting.emission import Emission, RunHandle
from celery_fanout.model.events import Event

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator

    from celery import Celery

    from celery_fanout.app.fanout import Fanout
    from celery_fanout.emitting.delivery import Draft


def nothing() -> None:
    """Do nothing: what there is to do before somebody looks, where nothing waits."""


class CapturedEvents(list[Event]):
    """The events emitted while they were captured, in order.

    In Django with those that wait for the commit of a transaction which has begun before, such as
    that of a ``TestCase``, as if it committed.

    Args:
        events: those that there are already.
        look: called before anybody looks at them.
    """

    def __init__(self, events: Iterable[Event] = (), look: Callable[[], None] = nothing) -> None:
        super().__init__(events)
        self._look = look

    def __len__(self) -> int:
        self._look()
        return super().__len__()

    def __iter__(self) -> Iterator[Event]:
        self._look()
        return super().__iter__()

    @overload
    def __getitem__(self, index: SupportsIndex) -> Event: ...

    @overload
    def __getitem__(self, index: slice) -> list[Event]: ...

    def __getitem__(self, index: SupportsIndex | slice) -> Event | list[Event]:
        self._look()
        return super().__getitem__(index)

    def __contains__(self, event: object) -> bool:
        self._look()
        return super().__contains__(event)

    def __eq__(self, other: object) -> bool:
        self._look()
        return super().__eq__(other)

    __hash__ = None  # as any list

    def __repr__(self) -> str:
        self._look()
        return super().__repr__()

    def named(self, name: str) -> list[Event]:
        """Return the events of one name."""
        return [event for event in self if event.name == name]

    def assert_emitted(self, name: str, data: Any = ..., *, times: int | None = None) -> Event:
        """Assert that an event was emitted, and return the last that fits.

        Args:
            name: the event's name.
            data: its data; if it is a dict, the items that the data must have at least.
            times: how often exactly; at least once by default.
        """
        fitting = [event for event in self.named(name) if _fits(event.data, data)]
        if (times is None and not fitting) or (times is not None and len(fitting) != times):
            wanted = "" if data is ... else f" with {data!r}"
            count = "was not emitted" if times is None else f"was emitted {len(fitting)} times"
            expected = "" if times is None else f", not {times}"
            seen = ", ".join(f"{event.name} {event.data!r}" for event in self) or "nothing"
            raise AssertionError(f"{name}{wanted} {count}{expected}. Emitted: {seen}.")
        return cast("Event", fitting[-1] if fitting else None)

    def assert_not_emitted(self, name: str, data: Any = ...) -> None:
        """Assert that no such event was emitted."""
        self.assert_emitted(name, data, times=0)


def _fits(data: Any, wanted: Any) -> bool:
    if wanted is ...:
        return True
    if isinstance(wanted, dict) and isinstance(data, dict):
        items = cast("Any", wanted).items()
        return all(key in data and _fits(data[key], item) for key, item in items)
    return bool(data == wanted)


class CapturingEmitter:
    """Matches and keeps what is emitted, and publishes nothing.

    Args:
        fanout: the app's parts.

    Attributes:
        captured: the events.
    """

    in_test = True

    def __init__(self, fanout: Fanout) -> None:
        self._fanout = fanout
        self.captured = CapturedEvents()

    def emit(self, draft: Draft) -> list[Emission]:
        """Keep the events, whenever their subscribers would start."""
        self.captured.extend(draft.events)
        return [Emission(event, self._runs(event)) for event in draft.events]

    def _runs(self, event: Event) -> list[RunHandle]:
        headers = event.headers()
        chains = [
            chain_for(event, headers, subscription, "")
            for subscription in self._fanout.registry.match(event)
        ]
        app = self._fanout.app
        return [
            RunHandle(app, chain.run_id, chain.result_id, chain.subscription, published=False)
            for chain in chains
        ]


@contextmanager
def watching(fanout: Fanout) -> Generator[Callable[[], None]]:
    """Treat transactions that are under way as if they committed, as far as a test can see.

    Yields:
        A function that emits what has begun to wait for them since; so does the end of the block.
    """
    emit_waiting = installed.deliverer.watch(fanout)
    try:
        yield lambda: emit_waiting(False)
    finally:
        emit_waiting(True)


@contextmanager
def capture(app: Celery | None = None) -> Generator[CapturedEvents]:
    """Record the events that are emitted in the block instead of publishing them.

    Events are validated and matched as always. In Django also those are captured that wait for the
    commit of a transaction which has begun before the block, such as that of a ``TestCase``, and
    those that would go into the outbox.

    Args:
        app: the Celery app; the current one by default.
    """
    fanout = get_fanout(app)
    emitter = CapturingEmitter(fanout)
    # in this order: what still waits at the end of the block is captured too
    with fanout.emitting_to(emitter), watching(fanout) as look:
        emitter.captured = CapturedEvents(look=look)
        yield emitter.captured
