"""``celery -A proj fanout events | runs | show | cancel | retry | ...``: what the ledger has."""

from __future__ import annotations

import json
import re
import sys
import time
from typing import TYPE_CHECKING, Any

import click

from celery_fanout.cli_base import command, print_json, print_table

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from celery_fanout.app import Fanout
    from celery_fanout.stores.records import RunRecord

__all__ = ["COMMANDS"]

STATES = [
    *("pending", "gated", "published", "running", "suspended", "retrying", "completing"),
    *("succeeded", "failed", "cancelled"),
]
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}

#: How many runs a question shows before it is answered.
SHOWN = 5

#: The shortest part of a run's id that may stand for it.
SHORTEST = 6


def _ago(_ctx: Any, _param: Any, value: str | None) -> float | None:
    """Read a duration such as ``90s``, ``2h`` or ``7d`` as the time that long ago."""
    if value is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", value)
    if found is None:
        raise click.BadParameter(f"{value!r} is no duration. Use 90s, 15m, 2h or 7d.")
    return time.time() - float(found[1]) * UNITS[found[2]]


def _filters(*, state: bool = True) -> Callable[[Any], Any]:
    options = [
        click.option("--subscription", help="Only those of the subscription with this id."),
        click.option("--name", help="Only those of events with this name."),
        click.option("--since", callback=_ago, help="Only those that changed since: 90s, 2h, 7d."),
        click.option("--error", "error_type", help="Only those that failed with this class."),
    ]
    if state:
        options.insert(
            0, click.option("--state", type=click.Choice(STATES), help="Only those in this state.")
        )

    def add(fn: Any) -> Any:
        for option in reversed(options):
            fn = option(fn)
        return fn

    return add


def _bulk(fn: Any) -> Any:
    for option in (
        click.option("--reason", help="Why, kept with the runs."),
        click.option("--max", "limit", default=1000, show_default=True, help="Refuse more runs."),
        click.option("--yes", is_flag=True, help="Do not ask."),
    ):
        fn = option(fn)
    return fn


def _as_dict(run: RunRecord) -> dict[str, Any]:
    found = {key: value for key, value in vars(run).items() if key != "detail"}
    return {**found, "state": str(run.state), **({"detail": run.detail} if run.detail else {})}


def _resolve(fanout: Fanout, run_id: str) -> str:
    """Return the id that an unambiguous beginning stands for."""
    from celery_fanout.exceptions import RunNotFound

    if len(run_id) < SHORTEST or fanout.ledger.run(run_id) is not None:
        return run_id
    recent = fanout.runs.list(limit=1000)
    found = sorted({run.id for run in recent if run.id.startswith(run_id)})
    if len(found) > 1:
        raise RunNotFound(run_id, f"{len(found)} of the latest runs begin so; give more of it.")
    return found[0] if found else run_id


@click.command()
@click.option("--name", help="Only those of this name.")
@click.option("--limit", default=20, show_default=True, help="How many at most.")
@command
def events(fanout: Fanout, name: str | None, limit: int, as_json: bool) -> None:
    """List events, the latest first."""
    from celery_fanout.timeline import moment

    found = fanout.runs.events(name=name, limit=limit)
    if as_json:
        print_json(
            [
                {
                    **vars(event),
                    "attributes": json.loads(event.attributes),
                    "data": json.loads(event.data),
                }
                for event in found
            ]
        )
        return
    if not found:
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
        for event in found
    ]
    print_table(["RECORDED (UTC)", "NAME", "ID", "RUNS", "OPEN", "KEY"], rows)


@click.command()
@_filters()
@click.option("--event", help="Only those of the event with this key.")
@click.option("--limit", default=20, show_default=True, help="How many at most.")
@command
def runs(
    fanout: Fanout,
    state: str | None,
    subscription: str | None,
    name: str | None,
    since: float | None,
    error_type: str | None,
    event: str | None,
    limit: int,
    as_json: bool,
) -> None:
    """List runs, the latest first.

    By when their state changed last. Without --state also how many are in each.
    """
    if name is None and since is None and error_type is None:
        found = fanout.runs.list(state=state, subscription=subscription, event=event, limit=limit)
    else:
        found = fanout.runs.select(
            state=state,
            subscription=subscription,
            name=name,
            since=since,
            error_type=error_type,
            limit=1_000_000,
        )[:limit]
    if as_json:
        print_json([_as_dict(run) for run in found])
        return
    if state is None:
        counts = fanout.runs.counts()
        shown = [f"{count:,} {key!s}" for key, count in counts.items() if count]
        click.echo(", ".join(shown) or "The ledger has no run.")
        if found:
            click.echo("")
    if found:
        _print_runs(found)
    elif state is not None:
        click.echo("The ledger has no such run.")


def _print_runs(found: Sequence[RunRecord]) -> None:
    from celery_fanout.timeline import moment

    print_table(
        ["CHANGED (UTC)", "RUN", "SUBSCRIPTION", "STATE", "RETRIES", "REASON"],
        [
            [
                moment(run.updated),
                run.id,
                run.subscription or f"({run.kind})",
                str(run.state),
                str(run.retries),
                run.reason,
            ]
            for run in found
        ],
    )


@click.command(name="dead-letters")
@_filters(state=False)
@click.option("--limit", default=20, show_default=True, help="How many at most.")
@command
def dead_letters(
    fanout: Fanout,
    subscription: str | None,
    name: str | None,
    since: float | None,
    error_type: str | None,
    limit: int,
    as_json: bool,
) -> None:
    """List runs that failed, with their errors."""
    from celery_fanout.timeline import moment

    found = fanout.runs.select(
        state="failed",
        subscription=subscription,
        name=name,
        since=since,
        error_type=error_type,
        limit=1_000_000,
    )[:limit]
    whole = [fanout.runs.get(run.id) for run in found]
    if as_json:
        print_json([_as_dict(run) for run in whole])
        return
    if not whole:
        click.echo("No run has failed for good.")
        return
    rows: list[list[str]] = []
    for run in whole:
        error: dict[str, Any] = run.detail["error"] or {}
        text = f"{error.get('type', '?')}: {error.get('message', '')}".splitlines()[0][:100]
        rows.append([moment(run.finished), run.id, run.subscription, text])
    print_table(["FAILED (UTC)", "RUN", "SUBSCRIPTION", "ERROR"], rows)


@click.command()
@click.argument("run")
@click.option("--traceback", is_flag=True, help="Show the traceback of a dead letter.")
@command
def show(fanout: Fanout, run: str, traceback: bool, as_json: bool) -> None:
    """Show a run as a timeline.

    Its executions, steps, waits, children, and its result or error.

    RUN is its id, or the beginning of it.
    """
    from celery_fanout.timeline import timeline

    found = fanout.runs.get(_resolve(fanout, run))
    children = [fanout.ledger.run(child) for child in found.detail["children"]]
    if as_json:
        print_json(_as_dict(found))
        return
    event = fanout.ledger.event(found.event)
    click.echo(
        timeline(
            found,
            event,
            [child for child in children if child is not None],
            traceback=traceback,
            now=fanout.ledger.time(),
        )
    )


@click.command()
@click.argument("run_ids", nargs=-1, metavar="[RUN]...")
@_filters()
@_bulk
@command
def cancel(fanout: Fanout, run_ids: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """Cancel runs, by id or by filter."""
    reason = options["reason"] or "cancelled by hand"
    open_ = [state for state in STATES if state not in ("succeeded", "failed", "cancelled")]
    _change(
        fanout,
        run_ids,
        options,
        lambda run_id: fanout.runs.cancel(run_id, reason),
        "cancel",
        [options["state"]] if options["state"] else open_,
        as_json=as_json,
    )


@click.command()
@click.argument("run_ids", nargs=-1, metavar="[RUN]...")
@_filters(state=False)
@_bulk
@command
def retry(fanout: Fanout, run_ids: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """Run failed runs again.

    By id or by filter. They keep the results of their finished steps.
    """
    reason = options["reason"] or "retried by hand"
    _change(
        fanout,
        run_ids,
        options,
        lambda run_id: fanout.runs.retry(run_id, reason),
        "retry",
        ["failed"],
        as_json=as_json,
    )


def _change(
    fanout: Fanout,
    run_ids: Sequence[str],
    options: dict[str, Any],
    change: Callable[[str], Any],
    verb: str,
    states: Sequence[str],
    *,
    as_json: bool,
) -> None:
    """Change runs that were named, or those that a filter means after a question."""
    names = ("subscription", "name", "since", "error_type")
    filters = {name: options[name] for name in names}
    filtered = any(value is not None for value in filters.values()) or options.get("state")
    if bool(run_ids) == bool(filtered):
        raise click.UsageError(f"Name the runs to {verb}, or give a filter; not both.")
    if run_ids:
        chosen = [_resolve(fanout, run_id) for run_id in run_ids]
        for run_id in chosen:
            change(run_id)  # the first that cannot be changed ends it, with its reason
        wrong: Sequence[str] = []
        done = len(chosen)
    else:
        found: list[RunRecord] = []
        for state in states:
            left = options["limit"] - len(found)
            found += fanout.runs.select(state=state, limit=left, **filters)
        if not _agreed(found, verb, yes=options["yes"]):
            raise click.exceptions.Exit(1)
        done, wrong = _with_progress(fanout, change, [run.id for run in found], verb)
    if as_json:
        print_json({"changed": done, "problems": wrong})
    else:
        for text in wrong:
            click.echo(f"Error: {text}", err=True)
        click.echo(f"{done} run(s) changed.")
    if wrong:
        raise click.exceptions.Exit(1)


def _agreed(found: Sequence[RunRecord], verb: str, *, yes: bool) -> bool:
    if yes or not found:
        return True
    click.echo(f"{len(found)} run(s) match:", err=True)
    for run in found[:SHOWN]:
        click.echo(f"  {run.id}  {run.subscription}  {run.state}", err=True)
    if len(found) > SHOWN:
        click.echo(f"  and {len(found) - SHOWN} more", err=True)
    if not sys.stdin.isatty():
        click.echo(f"Nothing was changed. Add --yes to {verb} them.", err=True)
        return False
    return click.confirm(f"{verb.capitalize()} them?", err=True)


def _with_progress(
    fanout: Fanout, change: Callable[[str], Any], ids: Sequence[str], verb: str
) -> tuple[int, Sequence[str]]:
    if not sys.stderr.isatty():
        return fanout.runs.many(change, ids)
    with click.progressbar(length=len(ids), label=verb, file=sys.stderr) as bar:
        return fanout.runs.many(change, ids, lambda _done, _all: bar.update(1))


@click.command()
@click.argument("event")
@click.option("--name", help="The event's name, if EVENT is its id and not its key.")
@click.option("--subscription", "subscriptions", multiple=True, help="Only to this one; repeat it.")
@command
def replay(
    fanout: Fanout, event: str, name: str | None, subscriptions: tuple[str, ...], as_json: bool
) -> None:
    """Deliver an event again, in new runs.

    To all its subscribers, or to some. EVENT is its key, or with --name its id.
    """
    fanout.load()
    record = fanout.runs.event(event, name)
    ids = fanout.runs.replay(record.key, list(subscriptions) or None)
    _print_new(ids, as_json=as_json)


def _print_new(ids: Sequence[str], *, as_json: bool) -> None:
    if as_json:
        print_json({"runs": list(ids)})
    else:
        for run_id in ids:
            click.echo(run_id)
        click.echo(f"{len(ids)} new run(s).")


@click.command()
@click.argument("run")
@click.option("--from", "step", required=True, help="The first step that is executed again.")
@command
def rerun(fanout: Fanout, run: str, step: str, as_json: bool) -> None:
    """Run again from a chosen step.

    In a new run of the same event, with the results of the steps before.
    """
    fanout.load()
    _print_new([fanout.runs.rerun(_resolve(fanout, run), step)], as_json=as_json)


@click.command()
@click.argument("subscription", required=False)
@command
def pause(fanout: Fanout, subscription: str | None, as_json: bool) -> None:
    """Hold back the runs of a subscription.

    Running ones go on. Without a subscription, list what is paused.
    """
    from celery_fanout.timeline import moment

    fanout.load()
    if subscription is None:
        held = fanout.runs.paused()
        if as_json:
            print_json(held)
        elif held:
            print_table(["SINCE (UTC)", "SUBSCRIPTION"], [[moment(t), s] for s, t in held.items()])
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

    def progress(total: int) -> None:
        if sys.stderr.isatty():
            click.echo(f"\r{total:,} run(s)", nl=False, err=True)

    count = fanout.runs.resume(subscription, progress)
    if as_json:
        print_json({"resumed": subscription, "runs": count})
    else:
        click.echo(f"{subscription} goes on; {count} run(s) were held back.")


#: The commands of this module, for the group.
COMMANDS = (cancel, dead_letters, events, pause, replay, rerun, resume, retry, runs, show)
