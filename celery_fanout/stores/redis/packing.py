"""From records to what the calls of ``calls.py`` carry of them: mostly JSON."""

from __future__ import annotations

import json
from functools import lru_cache
from hashlib import sha1
from typing import TYPE_CHECKING, Any, cast

from celery_fanout.stores.records import Recorded
from celery_fanout.stores.redis import calls
from celery_fanout.stores.states import RunState

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from celery_fanout.stores.limits import Flow, Gate
    from celery_fanout.stores.records import LedgerRules, NewEvent, NewRun, Settled

_dumps = json.JSONEncoder(separators=(",", ":")).encode

#: How many flows are remembered as scripts read them.
MAX_FLOWS = 1000


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
    """Return the rules as Lua: they are part of the scripts, which need not read them each time."""
    values = {
        "LEASE": rules.lease,
        "WINDOW": rules.dedup_window,
        "SUCCESS": rules.success_retention,
        "FAILURE": rules.failure_retention,
        "EVENTS": rules.event_retention,
        "CRASHES": rules.max_crashes,
        "GRACE": rules.grace,
        "REPUBLISH": rules.republish,
        "UNREGISTERED": rules.unregistered,
    }
    return "\n".join(f"local {name} = {value!r}" for name, value in values.items())


def _run_values(run: NewRun) -> list[Any]:
    """Return the 9 values of a run, see add_runs in lib.lua. A flow is the 10th."""
    return [
        run.id,
        run.kind,
        run.subscription,
        run.queue,
        run.message,
        run.field,
        run.group,
        run.cancel_on or "",
        dict(run.checkpoints) if run.checkpoints else "",
    ]


#: Flows as scripts read them, by their id(); each is kept beside its text, so that this stays its
#: own. (To hash one takes as long as to write it.)
_flows: dict[int, tuple[Flow, str]] = {}


def flow_json(flow: Flow) -> str:
    """Return a flow as scripts read it. Many runs have the same one."""
    entry = _flows.get(id(flow))
    if entry is None:
        if len(_flows) >= MAX_FLOWS:
            _flows.clear()
        entry = _flows[id(flow)] = (flow, dumps(_flow_values(flow)))
    return entry[1]


def _flow_values(flow: Flow) -> Mapping[str, Any]:
    """Return the values of a flow.

    ``f`` fields of the run's record and their values, ``g`` gates (id, name, key, "number period
    burst", period), ``o`` once (gate, for how long, name), ``r`` rate limit (gate, number, period,
    name), ``c`` collects (gate, kind, period, time-out or 0, size), ``s`` start_timeout. A run's
    has ``list`` of the broker and ``message``: which of the ``lists`` of record.lua goes there.
    """
    fields: list[str] = []
    gates: list[list[Any]] = []
    for number, place in enumerate(flow.places, start=1):
        gate = place.gate.id
        mode = ("k" if place.kept else "-") + place.full[0]
        fields += [f"l{number}", f"{gate} {place.at_most} {mode}"]
        gates.append(_numbers(place.gate, place.at_most))
    values: dict[str, Any] = {"f": fields, "g": gates}
    rate, throttle, collect = flow.rate_limit, flow.throttle, flow.collect
    if throttle is not None:
        gates.append(_numbers(throttle.gate, throttle.at_most, throttle.per, throttle.burst))
        fields += ["lt", f"{gates[-1][0]} {gates[-1][3]}"]
    if flow.once is not None:
        values["o"] = [flow.once.gate.id, flow.once.ttl, flow.once.gate.limit]
    if rate is not None:
        gate = rate.gate.id
        values["r"] = [gate, rate.at_most, rate.per, rate.gate.limit]
        gates.append(_numbers(rate.gate, rate.at_most, rate.per))
    if collect is not None:
        gate = collect.gate.id
        timeout = collect.timeout or 0
        values["c"] = [gate, collect.kind, collect.period, timeout, collect.max_size]
        gates.append(_numbers(collect.gate, collect.max_size, collect.period))
    lane = _lane(flow.lane)
    fields += ["fl", f"{lane} {flow.priority}"]
    if flow.start_timeout is not None:
        values["s"] = flow.start_timeout
    if flow.finish_timeout is not None:
        fields += ["ft", str(flow.finish_timeout)]
    return values


def _numbers(gate: Gate, at_most: int, per: float = 0, burst: int = 0) -> list[Any]:
    return [gate.id, gate.limit, gate.key, f"{at_most} {per} {burst}", per]


@lru_cache(maxsize=1000)
def _lane(text: str) -> str:
    return sha1(text.encode(), usedforsecurity=False).hexdigest()[:12]


def run_json(run: NewRun, message: int = 0) -> str:
    """Return a run as scripts read it.

    Args:
        run: the run.
        message: which of the ``lists`` of record.lua is its message; 0: none.
    """
    values = dumps(_run_values(run))
    if run.flow is None:
        return values
    flow = flow_json(run.flow)
    if message and run.envelope is not None:
        flow = f'{flow[:-1]},"list":{_quoted(run.envelope[0])},"message":{message}}}'
    return f"{values[:-1]},{flow}]"


def runs_json(runs: Sequence[NewRun], messages: Sequence[int] = ()) -> str:
    """Return runs as scripts read them: one text, as each argument costs a client."""
    if all(run.flow is None for run in runs):
        return dumps([_run_values(run) for run in runs])
    numbers = messages or [0] * len(runs)
    return f"[{','.join(map(run_json, runs, numbers))}]"


_quoted = lru_cache(maxsize=64)(dumps)


def record_call(event: NewEvent, *, news: bool = False) -> calls.Call[Any]:
    """Return the call that records an event; ``news``: other shards are to be told."""
    head: dict[str, Any] = {
        "key": event.key,
        "name": event.name,
        "gen": event.generation,
        "replay": event.replay,
        "nonce": event.nonce,
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
    lists = list_args(event.messages)
    # not within the JSON of the runs: a message has many quotes, and each would be escaped
    numbers: list[int] = []
    sealed: list[str | int] = []
    first = len(lists) + 1  # Lua counts from 1
    for run in event.runs:
        envelope = run.envelope if run.flow is not None and run.flow.collect is None else None
        numbers.append(0 if envelope is None else first + len(sealed))
        if envelope is not None:
            sealed.append(envelope[1])
    return calls.record(
        event=_dumps(head),
        attributes=event.attributes,
        data=event.data,
        then_message=event.then_message,
        runs=runs_json(event.runs, numbers),
        lists=[*lists, *sealed],
    )


def list_args(lists: Mapping[str, Sequence[str]]) -> list[str | int]:
    """Return the messages for lists of the broker as scripts read them, see push in lib.lua."""
    args: list[str | int] = [len(lists)]
    for key, messages in lists.items():
        args += [key, len(messages), *messages]
    return args


def recorded_of(event: NewEvent, answer: Any) -> Recorded:
    """Return what the answer to :func:`record_call` says."""
    status, generation, states, woken, *other = answer
    ids = other[0] if other else [run.id for run in event.runs]
    runs = list(zip(ids, map(RunState, states.split()), strict=True))
    return Recorded(status, int(generation), runs, woken)


def settle_call(
    run_id: str,
    token: int,
    to: RunState,
    *,
    result: str | None = None,
    error: Mapping[str, Any] | None = None,
    reason: str = "",
    due: float | None = None,
    retries: int | None = None,
    group: str = "",
    checkpoints: Mapping[str, str] | None = None,
    child: NewRun | None = None,
    trace: str = "",
) -> calls.Call[Settled]:
    """Return the call that settles a run, see ``Ledger.settle``."""
    how: dict[str, Any] = {"reason": reason, "group": group}
    if due is not None:
        how["due"] = due
    if retries is not None:
        how["retries"] = retries
    if error is not None:
        how["error"] = f"{error.get('type', '?')}: {str(error.get('message', ''))[:500]}"
    if trace:
        how["trace"] = trace
    return calls.settle(
        id=run_id,
        token=token,
        to=to.value,
        how=dumps(how),
        result=result or "",
        error=dumps(dict(error)) if error is not None else "",
        checkpoints=dumps(dict(checkpoints)) if checkpoints else "",
        link=run_json(child) if child is not None else "",
    )
