"""``celery -A proj fanout cancel | retry | replay | rerun | pause | resume``: changing runs."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import click

from celery_fanout.cli.command import (
    NUMBER,
    STATES,
    ago,
    command,
    options_of,
    print_json,
    print_table,
    progress,
    run_filters,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from celery_fanout.app.fanout import Fanout
    from celery_fanout.operating.control import Bulk

#: What a cancellation by filter reaches. A run that is completing has returned already.
OPEN = [s for s in STATES if s not in ("completing", "succeeded", "failed", "cancelled")]

#: How many runs a question shows before it is answered.
SHOWN = 5


_bulk = options_of(
    click.option("--yes", is_flag=True, help="Do not ask."),
    click.option(
        "--max", "limit", type=NUMBER, default=1000, show_default=True, help="Refuse more."
    ),
    click.option("--reason", default="", help="Why."),
)


@click.command()
@click.argument("run_ids", nargs=-1, metavar="[RUN]...")
@run_filters(error=False)  # what has failed has ended
@_bulk
@command
def cancel(fanout: Fanout, run_ids: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """Cancel runs, by id or by filter."""
    _change_runs(
        fanout,
        run_ids,
        options,
        "cancel",
        options.pop("state") or OPEN,
        fanout.runs.cancel_many,
        as_json=as_json,
    )


@click.command()
@click.argument("run_ids", nargs=-1, metavar="[RUN]...")
@run_filters(state=False)
@_bulk
@command
def retry(fanout: Fanout, run_ids: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """Run failed runs again.

    By id or by filter. They keep the results of their finished steps.
    """
    fanout.load()  # to publish them from here
    _change_runs(
        fanout, run_ids, options, "retry", "failed", fanout.runs.retry_many, as_json=as_json
    )


def _change_runs(
    fanout: Fanout,
    run_ids: Sequence[str],
    options: dict[str, Any],
    verb: str,
    states: str | Sequence[str],
    change: Callable[..., Bulk],
    *,
    as_json: bool,
) -> None:
    """Change runs that were named, or after a question those that a filter means."""
    from celery_fanout.operating.control import PARTS_OF_STEPS

    filters = {key: options.get(key) for key in ("subscription", "name", "since", "error_type")}
    filtered = any(filters.values()) or (verb == "cancel" and isinstance(states, str))
    if bool(run_ids) == bool(filtered):
        raise click.UsageError(f"Name the runs to {verb}, or give a filter; not both.")
    if run_ids:
        ids, wrong = _resolved(run_ids, lambda text: fanout.runs.find(text).id)
    else:
        runs = fanout.runs.select(state=states, limit=options["limit"], **filters)
        if not runs and filters["subscription"]:
            fanout.runs.require_subscription(filters["subscription"])
        if verb == "retry":  # these are retried with the run whose step they belong to
            runs = [run for run in runs if run.kind not in PARTS_OF_STEPS]
        rows = [[run.id, run.subscription or f"({run.kind})", str(run.state)] for run in runs]
        _ask(rows, ["RUN", "SUBSCRIPTION", "STATE"], verb, "run", yes=options["yes"])
        ids, wrong = [run.id for run in runs], {}
    reason = {"reason": options["reason"]} if options["reason"] else {}
    with progress(verb, len(ids)) as advance:
        bulk = change(ids, limit=max(len(ids), options["limit"]), progress=advance, **reason)
    _report(bulk, wrong, as_json=as_json, by_filter=not run_ids)


def _resolved(
    texts: Sequence[str], look_up: Callable[[str], str]
) -> tuple[list[str], dict[str, str]]:
    """Return the ids that were meant, and what is wrong with the others."""
    from celery_fanout.exceptions import EventNotFound, RunNotFound

    ids: dict[str, None] = {}
    wrong: dict[str, str] = {}
    for text in texts:
        try:
            ids[look_up(text)] = None
        except (EventNotFound, RunNotFound) as exc:  # noqa: PERF203 - somebody typed them
            wrong[text] = str(exc)
    return list(ids), wrong


def _ask(
    rows: Sequence[Sequence[str]], head: Sequence[str], verb: str, noun: str, *, yes: bool
) -> None:
    """Show what a filter means, and end the command unless somebody agrees."""
    if yes or not rows:
        return
    click.echo(f"{len(rows):,} {noun}(s) match:", err=True)
    print_table(head, rows[:SHOWN], err=True)
    if len(rows) > SHOWN:
        click.echo(f"and {len(rows) - SHOWN:,} more", err=True)
    if not sys.stdin.isatty():
        click.echo(f"Nothing was changed. Add --yes to {verb} them.", err=True)
        raise click.exceptions.Exit(1)
    if not click.confirm(f"{verb.capitalize()} them?", err=True):
        click.echo("Nothing was changed.", err=True)
        raise click.exceptions.Exit(1)


def _report(
    bulk: Bulk,
    wrong: dict[str, str],
    *,
    as_json: bool,
    by_filter: bool,
    replayed: bool = False,
) -> None:
    """Print what became of a change; end with 1 if not all was done that was asked for.

    What a filter had found, and somebody else has changed since, was not asked for by name.
    """
    from celery_fanout.exceptions import EventNotFound, RunNotFound, WrongState

    problems = {**wrong, **{key: str(exc) for key, exc in bulk.problems.items()}}
    if as_json:
        print_json({"changed": bulk.changed, "new": bulk.new, "problems": problems})
    else:
        for text in problems.values():
            click.echo(f"{'Left alone' if by_filter else 'Error'}: {text}", err=True)
        for run_id in bulk.new:
            click.echo(run_id)
        count, done = (bulk.new, "new run(s)") if replayed else (bulk.changed, "run(s) changed")
        click.echo(f"{len(count):,} {done}.")
    meanwhile = (EventNotFound, RunNotFound, WrongState)
    lost = by_filter and all(isinstance(exc, meanwhile) for exc in bulk.problems.values())
    if problems and not lost:
        raise click.exceptions.Exit(1)


@click.command()
@click.argument("event_ids", nargs=-1, metavar="[EVENT]...")
@click.option("--name", help="Of events with this name; EVENT is then the id.")
@click.option("--since", callback=ago, help="Of events recorded since: 90s, 2h, 7d.")
@click.option("--subscription", "subscriptions", multiple=True, help="Only to this one; repeat it.")
@_bulk
@command
def replay(
    fanout: Fanout,
    event_ids: tuple[str, ...],
    name: str | None,
    since: float | None,
    subscriptions: tuple[str, ...],
    as_json: bool,
    **options: Any,
) -> None:
    """Deliver an event again, in new runs.

    To all its subscribers, or to some. EVENT is its id or its key. Without it, --name or --since
    choose the events.
    """
    if (event_ids and since) or not (event_ids or name or since):
        raise click.UsageError("Name the events to replay, or give a filter; not both.")
    fanout.load()
    keys, wrong = _resolved(event_ids, lambda text: fanout.runs.event(text, name).key)
    if not event_ids:
        events = fanout.runs.select_events(name=name, since=since, limit=options["limit"])
        rows = [[e.name, json.loads(e.attributes)["id"], str(len(e.runs))] for e in events]
        _ask(rows, ["NAME", "ID", "RUNS"], "replay", "event", yes=options["yes"])
        keys = [event.key for event in events]
    with progress("replay", len(keys)) as advance:
        bulk = fanout.runs.replay_many(
            keys,
            list(subscriptions) or None,
            options["reason"],
            limit=max(len(keys), options["limit"]),
            progress=advance,
        )
    _report(bulk, wrong, as_json=as_json, by_filter=not event_ids, replayed=True)


@click.command()
@click.argument("run")
@click.option("--from", "step", required=True, help="The first step that is executed again.")
@click.option("--reason", default="", help="Why.")
@command
def rerun(fanout: Fanout, run: str, step: str, reason: str, as_json: bool) -> None:
    """Run again from a chosen step.

    In a new run of the same event, with the results of the steps before.
    """
    fanout.load()
    new = fanout.runs.rerun(fanout.runs.find(run).id, step, reason)
    if as_json:
        print_json({"changed": [], "new": [new], "problems": {}})
    else:
        click.echo(f"{new}\n1 new run(s).")


@click.command()
@click.argument("subscription", required=False)
@command
def pause(fanout: Fanout, subscription: str | None, as_json: bool) -> None:
    """Hold back the runs of a subscription.

    Running ones go on. Without a subscription, list what is paused.
    """
    from celery_fanout.operating.texts import moment

    fanout.load()
    if subscription is None:
        paused = fanout.runs.paused()
        if as_json:
            print_json(paused)
        elif paused:
            rows = [[moment(since), each] for each, since in paused.items()]
            print_table(["SINCE (UTC)", "SUBSCRIPTION"], rows)
        else:
            click.echo("No subscription is paused.")
        return
    new = fanout.runs.pause(subscription)
    if as_json:
        print_json({"paused": subscription, "new": new})
    else:
        click.echo(f"{subscription} is paused{'' if new else ' already'}.")


@click.command()
@click.argument("subscription")
@command
def resume(fanout: Fanout, subscription: str, as_json: bool) -> None:
    """Let the runs of a paused subscription go."""
    fanout.load()
    watched = sys.stderr.isatty()

    def show(total: int) -> None:
        click.echo(f"\r{total:,} run(s)", nl=False, err=True)

    count = fanout.runs.resume(subscription, show if watched else None)
    if watched:
        click.echo("", err=True)
    if as_json:
        print_json({"resumed": subscription, "runs": count})
    else:
        click.echo(f"{subscription} goes on; {count:,} run(s) were held back.")
