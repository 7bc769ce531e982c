"""``celery -A proj fanout limits``: the limits of flow control, and how full they are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from celery_fanout.cli.command import command, limit_option, print_json, print_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from celery_fanout.app.fanout import Fanout
    from celery_fanout.operating.limits import LimitRecord
    from celery_fanout.stores.limits import GateRecord

#: Kinds of limits that have places.
PLACES = ("concurrency", "singleton")

#: How many keys of each limit are listed with it.
SHOWN = 3

HEAD = ["LIMIT", "NUMBER", "IN USE", "WAITING", "OLDEST", "NEXT START"]


@click.command()
@click.argument("name", nargs=-1, metavar="[NAME]")
@click.option("--set", "number", type=int, help="Let so many through; with 0 nothing starts.")
@click.option("--per", type=float, help="With --set: in so many seconds.")
@click.option("--reset", is_flag=True, help="Use the number of the code again.")
@click.option("--holders", is_flag=True, help="List the runs that have a place of NAME.")
@limit_option("How many keys, or holders, of NAME at most.")
@command
def limits(
    fanout: Fanout,
    name: tuple[str, ...],
    number: int | None,
    per: float | None,
    reset: bool,
    holders: bool,
    limit: int,
    as_json: bool,
) -> None:
    """List limits of flow control, or change one.

    Where a limit has a key, the values of the key for which most runs wait are listed below it.
    With NAME only this limit, and more of them. --set and --reset hold for all workers at once.
    """
    chosen = " ".join(name)  # names contain spaces: nobody has to quote them
    _refuse(chosen, number, per, reset=reset, holders=holders)
    if holders:
        _holders(fanout, chosen, limit, as_json=as_json)
        return
    if number is not None:
        fanout.limits.tune(chosen, number, per)
    elif reset:
        fanout.limits.untune(chosen)
    if chosen and not reset:
        records: Sequence[LimitRecord] = [fanout.limits.get(chosen)]
    else:  # of one that is not in the code nothing may be left after --reset
        records = [each for each in fanout.limits.list() if chosen in ("", each.name)]
    if as_json:
        print_json([_data(fanout, record) for record in records])
        return
    if not records:
        click.echo("No subscription has a limit.")
        return
    now = fanout.ledger.time()
    rows: list[list[str]] = []
    for record in records:
        rows += _rows(fanout, record, now, limit if chosen else SHOWN)
    print_table(HEAD, rows)


def _refuse(
    name: str, number: int | None, per: float | None, *, reset: bool, holders: bool
) -> None:
    """Refuse options that say nothing together."""
    if not name and (number is not None or reset):
        raise click.UsageError("Name the limit to change: fanout limits lists them.")
    if reset and (number is not None or per is not None):
        raise click.UsageError("Either --set a number or --reset it.")
    if per is not None and number is None:
        raise click.UsageError("--per goes with --set.")
    if holders and (not name or number is not None or reset):
        raise click.UsageError("--holders goes with the name of a limit alone.")


def _holders(fanout: Fanout, name: str, limit: int, *, as_json: bool) -> None:
    from celery_fanout.operating.texts import age

    holders = fanout.limits.holders(name, limit=limit + 1)
    if len(holders) > limit:
        click.echo(f"There are more: these {limit:,} have it for longest. See --limit.", err=True)
    record = fanout.limits.get(name)
    now = fanout.ledger.time()
    head = ["key", "run", "subscription", "state", "since"]
    rows: list[list[Any]] = [
        [
            _key(fanout, record, holder.gate.key),
            run.id,
            run.subscription,
            str(run.state),
            holder.since,
        ]
        for holder, run in holders[:limit]
    ]
    if as_json:
        print_json([dict(zip(head, row, strict=True)) for row in rows])
    elif rows:
        table = [[*row[:-1], age(max(0.0, now - row[-1]))] for row in rows]
        print_table(["KEY", "RUN", "SUBSCRIPTION", "STATE", "HAS IT FOR"], table)
    elif record.kind in PLACES:
        click.echo("No run has a place.")
    else:
        click.echo(f"A {record.kind} has no places: {', '.join(PLACES)} have.")


def _data(fanout: Fanout, record: LimitRecord) -> dict[str, Any]:
    """Return a limit as JSON data."""
    keys = [
        {
            "key": _key(fanout, record, gate.gate.key),
            "used": gate.used,
            "waiting": gate.waiting,
            "oldest": gate.oldest,
            "next_at": gate.next_at,
        }
        for gate in record.keys
        if gate.gate.key or record.keyed
    ]
    return {**vars(record), "keys": keys}


def _rows(fanout: Fanout, record: LimitRecord, now: float, shown: int) -> list[list[str]]:
    # the values of an idempotency are as many as events: nobody counts them
    use = ["", "", "", ""] if record.kind == "idempotency" else _use(record, now)
    rows = [[record.name, _number(record), *use]]
    if not record.keyed:
        return rows
    rows += [
        [f"  {_key(fanout, record, gate.gate.key)}", "", *_use(gate, now)]
        for gate in record.keys[:shown]
    ]
    more = len(record.keys) - shown
    if more > 0:
        from celery_fanout.operating.limits import MOST

        atleast = " or more" if len(record.keys) == MOST else ""
        rows.append([f"  and {more:,}{atleast} more", *([""] * (len(HEAD) - 1))])
    return rows


def _number(record: LimitRecord) -> str:
    """Return the number in force, and that of the code where it is another."""
    from celery_fanout.operating.texts import number_of

    if not record.code:
        return f"{number_of(record.kind, record.at_most, record.per)} (not in the code)"
    code = " or ".join(number_of(record.kind, *pair) for pair in record.code)
    if not record.tuned:
        return code
    return f"{number_of(record.kind, record.at_most, record.per)} (code: {code})"


def _use(record: LimitRecord | GateRecord, now: float) -> list[str]:
    from celery_fanout.operating.texts import age

    oldest = "" if record.oldest is None else age(max(0.0, now - record.oldest))
    starts = ""
    if record.next_at is not None:
        starts = f"in {age(record.next_at - now)}" if record.next_at > now else "now"
    return [f"{record.used:,}", f"{record.waiting:,}", oldest, starts]


def _key(fanout: Fanout, record: LimitRecord, value: str) -> str:
    """Return the value of a key, unless the key sounds like that of a secret."""
    from celery_fanout.operating.redaction import redacted_key, redactor_of

    event = record.subscriptions[0].rpartition("@")[2] if record.subscriptions else ""
    return redacted_key(event, record.name, value, redactor_of(fanout.settings))
