"""From records to the arguments of scripts, and back."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, cast

from celery_fanout.stores.ledger import Claim, Recorded, Settled, Taken, Wakeup
from celery_fanout.stores.states import RunState

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from celery_fanout.stores.ledger import LedgerRules, NewEvent, NewRun

__all__ = [
    "claim_of",
    "dumps",
    "event_args",
    "pack_rules",
    "recorded_of",
    "run_args",
    "settled_of",
    "taken_of",
]

_dumps = json.JSONEncoder(separators=(",", ":")).encode

#: How many values one wakeup has in the answer of take.lua.
WAKEUP = 10


def dumps(value: Any) -> str:
    """Return JSON that cjson can read: it refuses half a surrogate pair."""
    text = _dumps(value)
    return text if "\\ud" not in text else _dumps(_scrubbed(value))


def _scrubbed(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, dict):
        items: Any = cast("Any", value).items()
        return {_scrubbed(key): _scrubbed(item) for key, item in items}
    if isinstance(value, (list, tuple)):
        return [_scrubbed(item) for item in cast("list[Any]", value)]
    return value


def pack_rules(rules: LedgerRules) -> str:
    """Return the rules in the order in which lib.lua reads them."""
    return (
        f"{rules.lease} {rules.dedup_window} {rules.success_retention} {rules.failure_retention} "
        f"{rules.event_retention} {rules.max_crashes} {rules.grace} {rules.republish} "
        f"{rules.unregistered}"
    )


def run_args(run: NewRun) -> tuple[str, ...]:
    """Return the 9 values of a run."""
    return (
        run.id,
        run.kind,
        run.subscription,
        run.queue,
        run.message,
        run.field,
        run.group,
        _dumps(run.cancel_on) if run.cancel_on else "",
        dumps(dict(run.checkpoints)) if run.checkpoints else "",
    )


def _flat(runs: Sequence[NewRun]) -> Iterator[str]:
    for run in runs:
        yield from run_args(run)


def event_args(event: NewEvent, *, news: bool = False) -> list[Any]:
    """Return the arguments of record.lua; ``news``: other shards are to be told."""
    head: dict[str, Any] = {
        "key": event.key,
        "name": event.name,
        "gen": event.generation,
        "replay": event.replay,
        "then_id": event.then_id,
    }
    if event.trace:
        head["trace"] = event.trace
    if news and not event.replay:
        head["news"] = 1
    if event.resume_at is not None:
        head["resume"] = event.resume_at
    if event.expires_at is not None:
        head["expires"] = event.expires_at
    args: list[Any] = [_dumps(head), event.attributes, event.data, event.then_message]
    args += [len(event.runs), *_flat(event.runs), len(event.messages)]
    for key, messages in event.messages.items():
        args += [key, len(messages), *messages]
    return args


def recorded_of(answer: Any) -> Recorded:
    """Read the answer of record.lua."""
    status, generation, flat, woken = answer
    runs = [(flat[i], RunState(flat[i + 1])) for i in range(0, len(flat), 2)]
    return Recorded(status, int(generation), runs, woken)


def claim_of(answer: Any) -> Claim:
    """Read the answer of claim.lua."""
    status, state, token, retries, crashes, created, due, result, flat, woken, now = answer
    return Claim(
        status=status,
        state=RunState(state) if state else None,
        token=int(token),
        retries=int(retries),
        crashes=int(crashes),
        created=float(created),
        due=float(due),
        checkpoints=dict(zip(flat[::2], flat[1::2], strict=True)),
        result=result,
        woken=woken,
        now=float(now),
    )


def settled_of(answer: Any) -> Settled:
    """Read the answer of settle.lua and the like."""
    return Settled(bool(answer[0]), answer[1])


def taken_of(answer: Any) -> Taken:
    """Read the answer of take.lua."""
    now, next_due, ended, flat = answer
    wakeups: list[Wakeup] = []
    for at in range(0, len(flat), WAKEUP):
        run_id, kind, sub, event, attributes, data, retries, message, gen, trace = flat[
            at : at + WAKEUP
        ]
        wakeups.append(
            Wakeup(
                run_id, kind, sub, event, attributes, data, int(retries), message, int(gen), trace
            )
        )
    return Taken(wakeups, ended, None if next_due is None else float(next_due), float(now))


def settle_args(
    to: RunState, reason: str, error: Mapping[str, Any] | None, **options: Any
) -> list[Any]:
    """Return the arguments of settle.lua that say what happened."""
    head: dict[str, Any] = {"reason": reason, "group": options["group"]}
    for name in ("due", "retries"):
        if options[name] is not None:
            head[name] = options[name]
    if error is not None:
        head["error"] = f"{error.get('type', '?')}: {str(error.get('message', ''))[:500]}"
    if options["trace"]:
        head["trace"] = options["trace"]
    checkpoints = options["checkpoints"]
    child = options["child"]
    return [
        to.value,
        dumps(head),
        options["result"] or "",
        dumps(dict(error)) if error is not None else "",
        dumps(dict(checkpoints)) if checkpoints else "",
        *(("1", *run_args(child)) if child is not None else ("0",)),
    ]
