"""The scripts as Python sees them: what each takes, by name, and what it answers.

A class for each script of ``scripts/``, with its name: ``EndWait`` is ``end_wait.lua``. Its fields
are the script's arguments, as the ``-- args:`` line in the header declares them; the unit tests
hold one against the other. Where the header's last one ends in ``...``, each item of the sequence
is an argument of its own. A flag is 1 or 0: redis-py takes no bool.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Generic, NamedTuple, TypeVar

from celery_fanout.stores import records
from celery_fanout.stores.states import RunState

if TYPE_CHECKING:
    from collections.abc import Sequence

Answer = TypeVar("Answer")

#: How many values one wakeup has in the answer of take.lua.
WAKEUP = 10


class Call(Generic[Answer]):
    """A call of a script.

    Attributes:
        script: the script's name.
    """

    __slots__ = ()
    script: ClassVar[str]

    def __init_subclass__(cls) -> None:
        cls.script = re.sub(r"(?<!^)(?=[A-Z])", "_", cls.__name__).lower()

    def read(self, answer: Any) -> Answer:
        """Return what the script's answer says: here the answer itself."""
        return answer  # type: ignore[no-any-return]


class Flag(Call[bool]):
    """A call whose answer is 1 or 0."""

    __slots__ = ()

    def read(self, answer: Any) -> bool:
        """Return whether it is 1."""
        return bool(answer)


class Fenced(Call[records.Settled]):
    """A call whose answer is 1, 0 if the token is stale, or one of them and who is due now."""

    __slots__ = ()

    def read(self, answer: Any) -> records.Settled:
        """Return it as a record."""
        if isinstance(answer, int):
            return records.Settled(bool(answer), [])
        return records.Settled(bool(answer[0]), answer[1])


# -- the path of a run -----------------------------------------------------------------------------


@dataclass(kw_only=True, slots=True)
class Record(Call[Any]):
    """Record an event and its runs; ``packing.recorded_of`` reads the answer beside the event."""

    event: str
    attributes: str
    data: str
    then_message: str
    runs: str
    lists: Sequence[str | int]


@dataclass(kw_only=True, slots=True)
class Published(Call[int]):
    """Note that runs were published, or publish them."""

    runs: str
    lists: Sequence[str | int]


@dataclass(kw_only=True, slots=True)
class Claim(Call[records.Claim]):
    """Take a run for execution."""

    id: str
    boot: str
    nonce: str
    retries: int
    put_back: str
    event: str = ""
    attributes: str = ""
    data: str = ""
    run: str = ""

    def read(self, answer: Any) -> records.Claim:
        """Return what the answer says."""
        status, facts, result, checkpoints, woken = answer
        state, token, retries, crashes, created, due, now = facts.split(" ")
        return records.Claim(
            status=status,
            state=None if state == "-" else RunState(state),
            token=int(token),
            retries=int(retries),
            crashes=int(crashes),
            created=float(created),
            due=float(due),
            checkpoints=dict(zip(checkpoints[::2], checkpoints[1::2], strict=True)),
            result=result,
            woken=woken,
            now=float(now),
        )


@dataclass(kw_only=True, slots=True)
class Store(Call["str | None"]):
    """Store a checkpoint."""

    id: str
    token: int
    field: str
    text: str


@dataclass(kw_only=True, slots=True)
class Settle(Fenced):
    """Leave a claim."""

    id: str
    token: int
    to: str
    how: str
    result: str
    error: str
    checkpoints: str
    link: str


@dataclass(kw_only=True, slots=True)
class Spawn(Fenced):
    """Record child runs."""

    id: str
    token: int
    group: str
    runs: str


@dataclass(kw_only=True, slots=True)
class Wait(Call["str | int | None"]):
    """Wait for an event, or find one that is recorded."""

    id: str
    token: int
    field: str
    name: str
    match: str
    since: str
    due: str
    chunk: int
    start: int


@dataclass(kw_only=True, slots=True)
class EndWait(Call["str | None"]):
    """Give up a wait, or answer it."""

    id: str
    token: int
    field: str
    event: str = ""


@dataclass(kw_only=True, slots=True)
class FileWait(Call["tuple[str, str] | None"]):
    """Let events find a wait whose checkpoint is not written yet."""

    id: str
    token: int
    field: str
    name: str
    match: str


class PastEvent(NamedTuple):
    """An event that fits a wait: when it was recorded, and JSON of what it says."""

    when: float
    attributes: str
    data: str


@dataclass(kw_only=True, slots=True)
class LookBack(Call["PastEvent | int | None"]):
    """Find the first event of a shard that fits a wait."""

    name: str
    match: str
    since: str
    own_event: str
    chunk: int
    start: int

    def read(self, answer: Any) -> PastEvent | int | None:
        """Return the event; where to go on from; or ``None`` if there is none."""
        if answer is None or isinstance(answer, int):
            return answer
        return PastEvent(float(answer[0]), *answer[1:])


@dataclass(kw_only=True, slots=True)
class Announce(Call["list[str]"]):
    """Tell the runs of a shard of an event that another shard has recorded."""

    key: str
    name: str
    attributes: str
    data: str
    at: str


# -- the keeper ------------------------------------------------------------------------------------


@dataclass(kw_only=True, slots=True)
class Renew(Call["list[str]"]):
    """Renew the leases of what a worker holds."""

    boot: str
    ids: Sequence[str]


@dataclass(kw_only=True, slots=True)
class Release(Call["list[str]"]):
    """Let go of what a worker that stops has."""

    boot: str
    ids: Sequence[str]


@dataclass(kw_only=True, slots=True)
class Take(Call[records.Taken]):
    """Take what is due."""

    limit: int
    grace: int
    ids: Sequence[str]

    def read(self, answer: Any) -> records.Taken:
        """Return what the answer says."""
        now, next_due, ended, flat, lists, busy = answer
        collected = {i: json.loads(keys) for i, keys in zip(lists[::2], lists[1::2], strict=True)}
        wakeups: list[records.Wakeup] = []
        for at in range(0, len(flat), WAKEUP):
            *texts, retries, message, generation, trace = flat[at : at + WAKEUP]
            events = collected.get(texts[0], ())
            values: Any = (*texts, int(retries), message, int(generation), trace, events)
            wakeups.append(records.Wakeup(*values))
        due = None if next_due is None else float(next_due)
        return records.Taken(wakeups, ended, due, float(now), busy == 1)


@dataclass(kw_only=True, slots=True)
class Resend(Call["list[str]"]):
    """Make due what was published to a queue and never received."""

    queue: str
    before: str
    limit: int


@dataclass(kw_only=True, slots=True)
class Abandon(Fenced):
    """Tell that the process that executed a run is gone."""

    id: str
    boot: str
    error: str
    final: int


@dataclass(kw_only=True, slots=True)
class Unregistered(Fenced):
    """Put a run back whose task this worker does not know."""

    id: str
    delay: float


@dataclass(kw_only=True, slots=True)
class AwaitingFollowUp(Call["list[str]"]):
    """Find runs whose follow-up is not recorded."""

    older_than: float
    limit: int


@dataclass(kw_only=True, slots=True)
class Adopt(Flag):
    """Record a child of a run that has ended."""

    id: str
    run: str


@dataclass(kw_only=True, slots=True)
class Sweep(Call[int]):
    """Remove from the indexes what has expired."""

    limit: int


# -- control, and what people see ------------------------------------------------------------------


@dataclass(kw_only=True, slots=True)
class Cancel(Call["tuple[list[str], list[str]]"]):
    """Cancel runs."""

    reason: str
    ids: Sequence[str]

    def read(self, answer: Any) -> tuple[list[str], list[str]]:
        """Return the ids of those that it cancelled, and of those that it woke."""
        cancelled, woken = answer
        return cancelled, woken


@dataclass(kw_only=True, slots=True)
class Reopen(Flag):
    """Run a dead letter or a cancelled run again."""

    id: str
    reason: str


@dataclass(kw_only=True, slots=True)
class Pause(Flag):
    """Hold back the runs of a subscription."""

    subscription: str


@dataclass(kw_only=True, slots=True)
class Resume(Call["tuple[int, bool]"]):
    """Let the runs of a subscription go."""

    subscription: str
    limit: int
    go_on: int

    def read(self, answer: Any) -> tuple[int, bool]:
        """Return how many it let go, and whether any are left."""
        count, left = answer
        return count, bool(left)


@dataclass(kw_only=True, slots=True)
class Outcomes(Call["list[records.RunOutcome]"]):
    """Find how runs ended, followed to the last link of their tails."""

    ids: Sequence[str]

    def read(self, answer: Any) -> list[records.RunOutcome]:
        """Return what the answer says."""
        return [
            records.RunOutcome(
                run_id,
                RunState(state) if state else None,
                result,
                json.loads(error) if error else None,
                reason,
            )
            for run_id, state, result, error, reason in answer
        ]


@dataclass(kw_only=True, slots=True)
class Tune(Call[int]):
    """Change a limit for all its gates."""

    limit: str
    numbers: str


@dataclass(kw_only=True, slots=True)
class Preview(Call["tuple[Any, str, int, int, int, str | None]"]):
    """Find what would happen to a run with a flow now: verdict, gate, its numbers, when."""

    flow_json: str
