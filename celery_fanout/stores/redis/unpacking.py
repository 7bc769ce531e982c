"""From Redis hashes to records.

Fields of ``r:<run>``, short because they are many: ``v`` version, ``k`` kind, ``e`` event, ``u``
subscription's hash, ``s`` state, ``g`` generation, ``n`` token, ``b`` boot id, ``y`` nonce of the
claim, ``c`` created, ``m`` updated, ``a`` started, ``a2`` started this attempt, ``f`` finished,
``i`` may go on at, ``o`` must start by, ``r`` retries, ``x`` crashes, ``z`` reason, ``q`` queue,
``h`` times published, ``p`` parent, ``pf`` and ``pg`` the parent's field and group, ``w`` group
waited for, ``ws`` has waits, ``l`` next link, ``rl`` released, ``re`` times reopened, ``un`` first
unregistered. All values are short, so that Redis packs the hash.

And if limits hold for it: ``fl`` its lane and priority, ``l1`` to ``l4`` the places that it needs
(gate, number, mode), ``lt`` its throttle (gate, number, period, burst), ``ls`` number by which it
waits, ``lw`` the lane in which it waits, ``la`` admitted, ``lh`` charged to the throttle, ``lr`` it
has a time of its own to start, ``cl`` how it collects, or who asked for it, ``co`` gate where it
collects, ``cd`` until when at most, ``os`` its ``o`` is that of ``start_timeout``, ``ft``
``finish_timeout``, ``fd`` must end by. What was dropped has them too: it may be retried. Why a run
is gated is not noted with it: the name of a limit is too long.

Fields of ``l:<gate>``: ``n`` name of the limit, ``k`` key, ``at`` number, period and burst as the
code has them, ``us`` last used, ``w`` how many runs wait, ``turn`` of the last lane, ``tat`` of a
throttle: from when on it is as if it had never been used, ``st`` likewise for starts.

Fields of ``e:<event>``: ``v`` version, ``nm`` name, ``t`` recorded, ``g`` latest generation, ``ge``
generation that was emitted, ``o`` open runs, ``of`` open runs that its fan-in waits for, ``rr``
replayed runs, ``rn`` nonce of the replay, ``ti`` fan-in, ``tm`` its message, ``td`` done.

Fields of ``d:<run>``: ``s<step key>`` checkpoint, ``a<number>`` attempt, ``c<run>`` kind of a
child, ``n<group>`` outstanding children, ``b<group>`` what the items of ``step.parallel`` replay
the body with, ``w<field>`` where a wait is filed, ``W<field>`` where it is again if the run is
retried, ``R`` result, ``E`` error, ``M`` message, ``T`` trace.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from celery_fanout.stores.records import EventRecord, RunRecord
from celery_fanout.stores.states import RunState

if TYPE_CHECKING:
    from collections.abc import Mapping


def _time(value: str | None) -> float | None:
    return None if value is None else float(value)


def run_record(
    run_id: str,
    fields: Mapping[str, str],
    subscription: str,
    due: float | None,
    detail: Mapping[str, Any] | None = None,
) -> RunRecord:
    """Return the record that a hash holds."""
    kind: Any = fields["k"]
    return RunRecord(
        id=run_id,
        kind=kind,
        subscription=subscription,
        event=fields.get("e", ""),
        state=RunState(fields["s"]),
        generation=int(fields.get("g", 0)),
        token=int(fields.get("n", 0)),
        retries=int(fields.get("r", 0)),
        crashes=int(fields.get("x", 0)),
        created=float(fields["c"]),
        updated=float(fields["m"]),
        started=_time(fields.get("a")),
        finished=_time(fields.get("f")),
        due=due,
        reason=fields.get("z", ""),
        worker=fields.get("b", ""),
        parent=fields.get("p", ""),
        reopened=int(fields.get("re", 0)),
        detail=detail or {},
    )


def detail_of(data: Mapping[str, str]) -> dict[str, Any]:
    """Return what ``RunRecord.detail`` holds."""
    attempts = [json.loads(data[key]) for key in data if key[0] == "a"]
    waits: dict[str, Any] = {}
    for key, place in data.items():
        if key[0] == "w":
            name, paths, _, _ = json.loads(place)
            waits[key[1:]] = {"name": name, "paths": json.loads(paths)}
    return {
        "checkpoints": {key: data[key] for key in data if key[0] == "s"},
        "attempts": sorted(attempts, key=lambda attempt: attempt["number"]),
        "children": {key[1:]: data[key] for key in data if key[0] == "c"},
        "waits": waits,
        "result": data.get("R"),
        "error": json.loads(data["E"]) if "E" in data else None,
        "message": data.get("M", ""),
        "events": [],
    }


def parts_of(text: str) -> list[str]:
    """Return what an event says: the ids of its runs, its attributes, its trace, its data.

    All but the ids are as they were given; ``write_text`` in ``lib.lua`` puts them together.
    """
    return text.split("\n", 3)


def event_record(key: str, fields: Mapping[str, str], text: str | None) -> EventRecord | None:
    """Return the record that a hash and a text hold; ``None`` if they are gone."""
    if text is None or "nm" not in fields:
        return None
    runs, attributes, _, data = parts_of(text)
    return EventRecord(
        key=key,
        name=fields["nm"],
        attributes=attributes,
        data=data,
        created=float(fields["t"]),
        generation=int(fields["g"]),
        runs=json.loads(runs),
        replayed=json.loads(fields.get("rr", "[]")),
        open=max(0, int(fields.get("o", 0))),
    )
