"""``celery -A proj fanout events | runs | dead-letters | show``: what the ledger has."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, TypeVar

import click

from celery_fanout.cli.command import (
    ago,
    command,
    limit_option,
    print_json,
    print_table,
    run_filters,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from celery_fanout.app.fanout import Fanout
    from celery_fanout.stores.records import EventRecord, RunRecord

RecordT = TypeVar("RecordT")

#: How much of an error's message stands in a table.
MAX_ERROR = 100

#: How many events of a run that collected them are shown one by one.
MAX_EVENTS = 20

#: How many runs of an event are listed with it.
MAX_SHOWN = 1000


def _run_data(run: RunRecord) -> dict[str, Any]:
    """Return a run as JSON data: texts of the ledger that are JSON are read."""
    data = {key: value for key, value in vars(run).items() if key != "detail"}
    data["state"] = str(run.state)
    if run.detail:
        detail = dict(run.detail)
        texts: dict[str, str] = detail["checkpoints"]
        detail["checkpoints"] = {
            field[1:]: json.loads(text)
            for field, text in sorted(texts.items(), key=lambda pair: _stored(pair[1]))
        }
        detail["result"] = None if detail["result"] is None else json.loads(detail["result"])
        detail["message"] = json.loads(detail["message"]) if detail["message"] else None
        data["detail"] = detail
    return data


def _stored(text: str) -> float:
    return float(json.loads(text).get("t") or 0.0)


def _event_data(event: EventRecord) -> dict[str, Any]:
    texts = {"attributes": json.loads(event.attributes), "data": json.loads(event.data)}
    return {**vars(event), **texts}


def _first(limit: int, records: Sequence[RecordT]) -> Sequence[RecordT]:
    """Return the first records, and say on standard error if these are not all."""
    if len(records) > limit:
        click.echo(f"There are more: these are the latest {limit:,}. See --limit.", err=True)
    return records[:limit]


@click.command()
@click.option("--name", help="Only those of this name.")
@click.option("--since", callback=ago, help="Only those recorded since: 90s, 2h, 7d.")
@limit_option()
@command
def events(
    fanout: Fanout, name: str | None, since: float | None, limit: int, as_json: bool
) -> None:
    """List events, the latest first."""
    from celery_fanout.operating.texts import moment

    records = _first(limit, fanout.runs.events(name=name, since=since, limit=limit + 1))
    if as_json:
        from celery_fanout.operating.redaction import redacted_event, redactor_of

        redact = redactor_of(fanout.settings)
        print_json([_event_data(redacted_event(event, redact)) for event in records])
        return
    if not records:
        click.echo("The ledger has no such event.")
        return
    rows = [
        [
            moment(event.created),
            event.name,
            json.loads(event.attributes)["id"],
            str(len(event.runs) + len(event.replayed)),
            str(event.open),
            event.key,
        ]
        for event in records
    ]
    print_table(["RECORDED (UTC)", "NAME", "ID", "RUNS", "OPEN", "KEY"], rows)


@click.command()
@run_filters()
@click.option(
    "--event", help="Only those of the event with this id or key, and what they asked for."
)
@limit_option()
@command
def runs(
    fanout: Fanout, name: str | None, event: str | None, limit: int, as_json: bool, **filters: Any
) -> None:
    """List runs, the latest first.

    By when their state changed last. Without a filter also how many are in each state.
    """
    key = None if event is None else fanout.runs.event(event, name).key
    records = _first(limit, fanout.runs.list(event=key, name=name, limit=limit + 1, **filters))
    if not records and filters["subscription"]:
        fanout.runs.require_subscription(filters["subscription"])
    if as_json:
        print_json([_run_data(run) for run in records])
        return
    if not any((name, event, *filters.values())):
        counts = fanout.runs.counts()
        shown = [f"{count:,} {state!s}" for state, count in counts.items() if count]
        click.echo(", ".join(shown) or "The ledger has no run.")
        if records:
            click.echo("")
    elif not records:
        click.echo("The ledger has no such run.")
    if records:
        _print_runs(records)


def _print_runs(records: Sequence[RunRecord]) -> None:
    from celery_fanout.operating.texts import moment

    print_table(
        ["CHANGED (UTC)", "RUN", "SUBSCRIPTION", "STATE", "RETRIES", "REASON"],
        [
            [
                moment(run.updated),
                run.id,
                _whose(run),
                str(run.state),
                str(run.retries),
                run.reason,
            ]
            for run in records
        ],
    )


def _whose(run: RunRecord) -> str:
    """Return the subscription of a run, and its kind if it is no handling of an event."""
    kind = "" if run.kind == "event" else f"({run.kind})"
    return " ".join(part for part in (run.subscription, kind) if part)


@click.command(name="dead-letters")
@run_filters(state=False)
@limit_option()
@command
def dead_letters(fanout: Fanout, limit: int, as_json: bool, **filters: Any) -> None:
    """List runs that failed, with their errors."""
    from celery_fanout.operating.texts import moment

    records = _first(limit, fanout.runs.list(state="failed", limit=limit + 1, **filters))
    errors = [dict(o.error or {}) for o in fanout.runs.outcomes([run.id for run in records])]
    if as_json:
        pairs = zip(records, errors, strict=True)
        print_json([{**_run_data(run), "error": error} for run, error in pairs])
        return
    if not records:
        click.echo("The ledger has no such dead letter.")
        return
    rows: list[list[str]] = []
    for run, error in zip(records, errors, strict=True):
        message = (str(error.get("message", "")).splitlines() or [""])[0]
        text = f"{error.get('type', '?')}: {message}"[:MAX_ERROR]
        rows.append([moment(run.finished), run.id, _whose(run), str(run.token), text])
    print_table(["FAILED (UTC)", "RUN", "SUBSCRIPTION", "EXECUTIONS", "ERROR"], rows)


@click.command()
@click.argument("id")
@click.option("--name", help="Of the event with the id ID and this name.")
@click.option("--traceback", is_flag=True, help="Show the traceback of a dead letter.")
@command
def show(fanout: Fanout, id: str, name: str | None, traceback: bool, as_json: bool) -> None:
    """Show a run as a timeline.

    Its executions, steps, waits, children, and its result or error.

    ID is the run's id, or the beginning of it; or the id of an event, which is shown with its
    runs.
    """
    from celery_fanout.exceptions import EventNotFound, RunNotFound

    if name is None:
        try:
            run = fanout.runs.find(id)
        except RunNotFound as exc:
            try:
                event = fanout.runs.event(id)
            except EventNotFound:
                raise exc from None
        else:
            _show_run(fanout, run, traceback=traceback, as_json=as_json)
            return
    else:
        event = fanout.runs.event(id, name)
    _show_event(fanout, event, as_json=as_json)


def _show_run(fanout: Fanout, run: RunRecord, *, traceback: bool, as_json: bool) -> None:
    from celery_fanout.operating.redaction import redacted_run, redactor_of
    from celery_fanout.operating.timeline import timeline

    event = fanout.ledger.event(run.event)
    run = redacted_run(run, "" if event is None else event.name, redactor_of(fanout.settings))
    if as_json:
        print_json(_run_data(run))
        return
    children = [fanout.ledger.run(child) for child in run.detail["children"]]
    collected = [fanout.ledger.event(key) for key in run.detail.get("events", ())[:MAX_EVENTS]]
    text = timeline(
        run,
        event,
        [child for child in children if child is not None],
        [event for event in collected if event is not None],
        traceback=traceback,
        now=fanout.ledger.time(),
    )
    click.echo(text)


def _show_event(fanout: Fanout, event: EventRecord, *, as_json: bool) -> None:
    from celery_fanout.operating.redaction import redacted_event, redactor_of
    from celery_fanout.operating.timeline import describe_event

    event = redacted_event(event, redactor_of(fanout.settings))
    records = fanout.runs.list(event=event.key, limit=MAX_SHOWN)
    if as_json:
        print_json({**_event_data(event), "runs": [_run_data(run) for run in records]})
        return
    click.echo(describe_event(event))
    if records:
        click.echo("")
        _print_runs(records)
    if len(records) == MAX_SHOWN:
        click.echo(f"There are more: fanout runs --event {event.key}")
