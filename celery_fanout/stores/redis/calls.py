"""The scripts as Python sees them: what each takes, by name, and what it answers.

A function for each script of ``scripts/``, with its name. It has no body: :func:`script` makes of
it what returns the :class:`Call`. Its arguments are the script's, as the ``-- args:`` line in the
header declares them; the unit tests hold one against the other. Where the header's last one ends
in ``...``, each item of the sequence is an argument of its own. A flag is 1 or 0: redis-py takes no
bool.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, ParamSpec, TypeVar

from celery_fanout.stores import records
from celery_fanout.stores.states import RunState

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Answer = TypeVar("Answer")
Arguments = ParamSpec("Arguments")

#: How many values one wakeup has in the answer of take.lua.
WAKEUP = 10


@dataclass(slots=True)
class Call(Generic[Answer]):
    """A call of a script.

    Attributes:
        script: the script's name.
        values: its arguments by their names.
        read: returns what the script's answer says.
    """

    script: str
    values: dict[str, Any]
    read: Callable[[Any], Answer]


def script(
    read: Callable[[Any], Answer],
) -> Callable[[Callable[Arguments, None]], Callable[Arguments, Call[Answer]]]:
    """Make a function that declares arguments return the call of the script with its name.

    Args:
        read: returns what the script's answer says.
    """

    def decorate(declare: Callable[Arguments, None]) -> Callable[Arguments, Call[Answer]]:
        name = declare.__name__

        @wraps(declare)
        def call(*args: Arguments.args, **values: Arguments.kwargs) -> Call[Answer]:
            declare(*args, **values)  # refuses what it does not declare
            return Call(name, values, read)

        return call

    return decorate


def unread(answer: Any) -> Any:
    """Return an answer as it is."""
    return answer


def text_or_none(answer: Any) -> str | None:
    """Return an answer that is a text, or nothing."""
    return None if answer is None else str(answer)


def texts(answer: Any) -> list[str]:
    """Return an answer that is a list of texts."""
    return list(answer)


def settled(answer: Any) -> records.Settled:
    """Read 1, 0 if the token is stale, or one of them and who is due now."""
    if isinstance(answer, int):
        return records.Settled(bool(answer), [])
    return records.Settled(bool(answer[0]), answer[1])


# -- the path of a run -----------------------------------------------------------------------------


@script(unread)
def record(
    *,
    event: str,
    attributes: str,
    data: str,
    then_message: str,
    runs: str,
    lists: Sequence[str | int],
) -> None:
    """Record an event and its runs; ``packing.recorded_of`` reads the answer beside the event."""


@script(int)
def published(*, runs: str, lists: Sequence[str | int]) -> None:
    """Note that runs were published, or publish them."""


def claimed(answer: Any) -> records.Claim:
    """Read what a claim says."""
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


@script(claimed)
def claim(
    *,
    id: str,
    boot: str,
    nonce: str,
    retries: int,
    put_back: str,
    event: str,
    attributes: str,
    data: str,
    run: str,
) -> None:
    """Claim a run for this worker."""


@script(text_or_none)
def store(*, id: str, token: int, field: str, text: str) -> None:
    """Store a checkpoint."""


@script(settled)
def settle(
    *, id: str, token: int, to: str, how: str, result: str, error: str, checkpoints: str, link: str
) -> None:
    """Leave a claim."""


@script(settled)
def spawn(*, id: str, token: int, group: str, runs: str) -> None:
    """Record child runs."""


@script(unread)
def wait(
    *,
    id: str,
    token: int,
    field: str,
    name: str,
    match: str,
    since: str,
    due: str,
    chunk: int,
    start: int,
) -> None:
    """Wait for an event, or find one that is recorded; a number says where to go on from."""


@script(text_or_none)
def end_wait(*, id: str, token: int, field: str, event: str) -> None:
    """Give up a wait, or answer it with an event."""


@script(unread)
def file_wait(*, id: str, token: int, field: str, name: str, match: str) -> None:
    """Let events find a wait whose checkpoint is not written yet."""


class PastEvent(NamedTuple):
    """An event that fits a wait: when it was recorded, and JSON of what it says."""

    when: float
    attributes: str
    data: str


def past_event(answer: Any) -> PastEvent | int | None:
    """Read an event; where to go on from; or ``None`` if there is none."""
    if answer is None or isinstance(answer, int):
        return answer
    return PastEvent(float(answer[0]), *answer[1:])


@script(past_event)
def look_back(*, name: str, match: str, since: str, own_event: str, chunk: int, start: int) -> None:
    """Find the first event of a shard that fits a wait."""


@script(texts)
def announce(*, key: str, name: str, attributes: str, data: str, at: str) -> None:
    """Tell the runs of a shard of an event that another shard has recorded."""


# -- the keeper ------------------------------------------------------------------------------------


@script(texts)
def renew(*, boot: str, ids: Sequence[str]) -> None:
    """Renew the leases of what a worker holds."""


@script(texts)
def release(*, boot: str, ids: Sequence[str]) -> None:
    """Let go of what a worker that stops has."""


def taken(answer: Any) -> records.Taken:
    """Read what is due."""
    now, next_due, ended, flat, lists, busy = answer
    collected = {i: json.loads(keys) for i, keys in zip(lists[::2], lists[1::2], strict=True)}
    wakeups: list[records.Wakeup] = []
    for at in range(0, len(flat), WAKEUP):
        *facts, retries, message, generation, trace = flat[at : at + WAKEUP]
        events = collected.get(facts[0], ())
        values: Any = (*facts, int(retries), message, int(generation), trace, events)
        wakeups.append(records.Wakeup(*values))
    due = None if next_due is None else float(next_due)
    return records.Taken(wakeups, ended, due, float(now), busy == 1)


@script(taken)
def take(*, limit: int, grace: int, ids: Sequence[str]) -> None:
    """Collect what is due, to be published."""


@script(texts)
def resend(*, queue: str, before: str, limit: int) -> None:
    """Make due what was published to a queue and never received."""


@script(settled)
def abandon(*, id: str, boot: str, error: str, final: int) -> None:
    """Tell that the process that executed a run is gone."""


@script(settled)
def unregistered(*, id: str, delay: float) -> None:
    """Put a run back whose task this worker does not know."""


@script(texts)
def awaiting_follow_up(*, older_than: float, limit: int) -> None:
    """Find runs whose follow-up is not recorded."""


@script(bool)
def adopt(*, id: str, run: str) -> None:
    """Record a child of a run that has ended."""


@script(int)
def sweep(*, limit: int) -> None:
    """Remove from the indexes what has expired."""


# -- control, and what people see ------------------------------------------------------------------


def cancelled(answer: Any) -> tuple[list[str], list[str]]:
    """Read the ids of those that were cancelled, and of those that were woken."""
    ids, woken = answer
    return ids, woken


@script(cancelled)
def cancel(*, reason: str, ids: Sequence[str]) -> None:
    """Cancel runs."""


@script(bool)
def reopen(*, id: str, reason: str) -> None:
    """Run a dead letter or a cancelled run again."""


@script(bool)
def pause(*, subscription: str) -> None:
    """Hold back the runs of a subscription."""


def resumed(answer: Any) -> tuple[int, bool]:
    """Read how many were let go, and whether any are left."""
    count, left = answer
    return count, bool(left)


@script(resumed)
def resume(*, subscription: str, limit: int, go_on: int) -> None:
    """Let the runs of a subscription go."""


def ended(answer: Any) -> list[records.RunOutcome]:
    """Read how runs ended."""
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


@script(ended)
def outcomes(*, ids: Sequence[str]) -> None:
    """Find how runs ended, followed to the last link of their tails."""


@script(int)
def tune(*, limit: str, numbers: str) -> None:
    """Change a limit for all its gates."""


@script(unread)
def preview(*, flow_json: str) -> None:
    """Find what would happen to a run with a flow now: verdict, gate, its numbers, when."""
