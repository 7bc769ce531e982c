"""``celery -A proj fanout ...``: what is subscribed, what would happen, and what may go wrong.

Exit codes: 0 done, 1 the command found or met a problem, 2 wrong usage.
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import click

from celery_fanout.cli.changes import COMMANDS as CHANGES
from celery_fanout.cli.command import command, print_json, print_table
from celery_fanout.cli.limits import COMMANDS as LIMITS
from celery_fanout.cli.runs import COMMANDS as VIEWS

if TYPE_CHECKING:
    from celery_fanout.app.fanout import Fanout

__all__ = ["fanout"]


@click.group()
def fanout(**_: Any) -> None:
    """Events, their subscribers, and their runs."""


#: How alike two names must be for one to be the other misspelt; 1 is equal.
NEAR = 0.75

for _found in (*CHANGES, *LIMITS, *VIEWS):
    fanout.add_command(_found)


def _parse(argument: str | None) -> Any:
    if argument is None:
        return None
    text: str = argument
    if text == "-":
        text = sys.stdin.read()
    elif text.startswith("@"):
        try:
            with click.open_file(text[1:]) as file:
                text = str(file.read())
        except OSError as exc:
            raise click.UsageError(f"DATA cannot be read: {exc}.") from exc
    try:
        return json.loads(text)
    except ValueError as exc:
        raise click.UsageError(
            f"DATA is no JSON ({exc}). Quote it for the shell: '{{\"id\": 1}}'."
        ) from exc


def _filter_name(subscription: Any) -> str:
    if subscription.filter is None:
        return ""
    return str(getattr(subscription.filter, "__qualname__", repr(subscription.filter)))


@fanout.command()
@command
def subscriptions(fanout: Fanout, as_json: bool) -> None:
    """List what every task subscribes to."""
    from celery_fanout.operating.limits import described

    fanout.load()
    rows = [
        {
            "event": sub.pattern,
            "task": sub.task.name,
            "filter": _filter_name(sub),
            "then": [link["task"] for link in sub.tail],
            "on_failure": sub.on_failure or "",
            "options": dict(sub.options),
            "limits": list(sub.limits_by_name()),
            "flow": described(sub),
            "where": sub.where,
        }
        for sub in fanout.registry
    ]
    if fanout.registry.errors:
        for error in fanout.registry.errors:
            click.echo(f"Error: {error}", err=True)
    if as_json:
        print_json(rows)
    elif rows:
        head = ["EVENT", "TASK", "FILTER", "THEN", "ON FAILURE"]
        flow = ["FLOW CONTROL"] if any(row["flow"] for row in rows) else []
        cells = [
            [
                str(row["event"]),
                str(row["task"]),
                str(row["filter"]),
                " -> ".join(row["then"]),
                str(row["on_failure"]),
                "; ".join(row["flow"]),
            ]
            for row in rows
        ]
        print_table([*head, *flow], [row[: len(head) + len(flow)] for row in cells])
    elif not fanout.registry.errors:
        click.echo("No task subscribes to an event.")
    if fanout.registry.errors:
        raise click.exceptions.Exit(1)


@fanout.command()
@click.argument("name")
@click.argument("data", required=False)
@command
def explain(fanout: Fanout, name: str, data: str | None, as_json: bool) -> None:
    """Say whom an event would reach, and why.

    And of those with flow control what would happen now. DATA is JSON, "-" for standard input, or
    @FILE. Nothing is published.
    """
    found = fanout.explain(name, _parse(data))
    if as_json:
        print_json(
            [
                {
                    "subscription": e.subscription.id,
                    "matches": e.matches,
                    "reason": e.reason,
                    "flow": e.flow,
                }
                for e in found
            ]
        )
    elif found:
        print_table(
            ["RUNS", "SUBSCRIPTION", "REASON"],
            [
                [
                    "yes" if e.matches else "no",
                    e.subscription.id,
                    f"{e.reason}; {e.flow}" if e.flow else e.reason,
                ]
                for e in found
            ],
        )
    else:
        click.echo("No task subscribes to an event.")


@fanout.command()
@click.argument("name")
@click.argument("data", required=False)
@click.option("--id", "event_id", help="The event's id; the same id gives the same runs.")
@click.option("--subject", help="What the event is about.")
@click.option("--source", help="Where it happened.")
@click.option("--delay", type=float, help="Seconds before subscribers start.")
@click.option("--expires", type=float, help="Seconds after which no run starts any more.")
@click.option("--wait", type=float, help="Wait up to this many seconds for the results.")
@command
def emit(
    fanout: Fanout,
    name: str,
    data: str | None,
    event_id: str | None,
    subject: str | None,
    source: str | None,
    delay: float | None,
    expires: float | None,
    wait: float | None,
    as_json: bool,
) -> None:
    """Publish an event to its subscribers.

    DATA is JSON, "-" for standard input, or @FILE. With --wait the exit code is 1 if a run failed
    or is still pending.
    """
    emission = fanout.emit(
        name,
        _parse(data),
        id=event_id,
        subject=subject,
        source=source,
        delay=delay,
        expires=expires,
    )
    outcomes = {o.run.id: o for o in _outcomes(emission, wait)}
    rows: list[dict[str, Any]] = []
    for run in emission.runs:
        row: dict[str, Any] = {"run": run.id, "subscription": run.subscription.id}
        outcome = outcomes.get(run.id)
        if outcome is None and wait is not None:
            row["outcome"] = "pending"
        if outcome is not None:
            row["outcome"] = "succeeded" if outcome.ok else "failed"
            row["outcome"] = "not stored" if outcome.ignored else row["outcome"]
            if outcome.error is None:
                row["value"] = outcome.value
            else:
                # the ledger's has the name of the class in its text
                told = getattr(outcome.error, "error_type", "")
                kind = "" if told else f"{type(outcome.error).__name__}: "
                row["error"] = f"{kind}{outcome.error}"
        rows.append(row)
    _note_states(fanout, emission, rows)
    if as_json:
        print_json({"event": emission.event.to_cloudevent(), "runs": rows})
    else:
        _print_emission(emission, rows)
    if not fanout.registry.candidates(name):
        near = _nearest(fanout, name)
        if near:
            click.echo(f"No task subscribes to {name!r}. Did you mean {near!r}?", err=True)
    if any(row.get("outcome") == "pending" for row in rows):
        click.echo(f"Error: no outcome of all runs after {wait:g} s.", err=True)
    if any(row.get("outcome") in ("failed", "pending") for row in rows):
        raise click.exceptions.Exit(1)


def _note_states(fanout: Fanout, emission: Any, rows: list[dict[str, Any]]) -> None:
    """Note where runs are that have no outcome, if flow control may hold them back or drop them."""
    flowing = any(run.subscription.limits is not None for run in emission.runs)
    if fanout.level2 is None or not flowing:
        return
    for row in rows:
        if row.get("outcome", "pending") == "pending":
            run = fanout.ledger.run(row["run"])
            if run is not None:  # else it was executed eagerly
                row["state"] = f"{run.state!s} ({run.reason})" if run.reason else str(run.state)


def _nearest(fanout: Fanout, name: str) -> str:
    """Return the name of an event that somebody subscribes to and that is nearly this one."""
    import difflib

    names = [sub.pattern for sub in fanout.registry if not sub.pattern.endswith("*")]
    return next(iter(difflib.get_close_matches(name, names, n=1, cutoff=NEAR)), "")


def _outcomes(emission: Any, wait: float | None) -> list[Any]:
    """Wait for outcomes, and return those that there are."""
    from celery_fanout.exceptions import EmissionTimeout

    if wait is None:
        return []
    try:
        return list(emission.get(wait))
    except EmissionTimeout as exc:
        return exc.outcomes


def _print_emission(emission: Any, rows: list[dict[str, Any]]) -> None:
    click.echo(f"{emission.event.name}  {emission.event.id}")
    if not rows:
        waits = "It waits in the outbox for a relay."
        click.echo("No task subscribes to it." if emission.published else waits)
        return
    click.echo("")
    if "outcome" not in rows[0]:
        head = ["RUN", "SUBSCRIPTION", *(["STATE"] if any("state" in r for r in rows) else [])]
        cells = [[r["run"], r["subscription"], r.get("state", "")] for r in rows]
        print_table(head, [row[: len(head)] for row in cells])
        return
    print_table(
        ["RUN", "SUBSCRIPTION", "OUTCOME", ""],
        [
            [
                r["run"],
                r["subscription"],
                r["outcome"],
                r.get("error") or r.get("state") or ""
                if r["outcome"] in ("failed", "pending")
                else json.dumps(r.get("value"), default=str, ensure_ascii=False),
            ]
            for r in rows
        ],
    )


@fanout.command()
@click.option("--connect", is_flag=True, help="Also connect to the broker and the store.")
@click.option(
    "--fail-on",
    type=click.Choice(["error", "warning"]),
    default="error",
    show_default=True,
    help="The least that makes the exit code 1.",
)
@command
def check(fanout: Fanout, connect: bool, fail_on: str, as_json: bool) -> None:
    """Look for settings that lose or repeat work.

    Each finding comes with its remedy. The reference lists them all.
    """
    from celery_fanout.app.checks import findings
    from celery_fanout.app.live_checks import live_findings

    found = findings(fanout)
    if connect:
        found += live_findings(fanout)
    if as_json:
        print_json([vars(finding) for finding in found])
    else:
        for finding in found:
            click.echo(f"{finding.level.upper():8} {finding.id}  {finding.message}")
            click.echo(f"{'':8} -> {finding.remedy}")
        errors = sum(finding.level == "error" for finding in found)
        warnings = sum(finding.level == "warning" for finding in found)
        click.echo(f"{errors} error(s), {warnings} warning(s).")
    failing = {"error"} if fail_on == "error" else {"error", "warning"}
    if any(finding.level in failing for finding in found):
        raise click.exceptions.Exit(1)


@fanout.command()
@command
def keeper(fanout: Fanout, as_json: bool) -> None:
    """Look for what is due, in a process of its own.

    Only where fanout_keeper is off: by default every worker does this. Ends with SIGTERM or Ctrl-C.
    """
    from celery_fanout.app.processes import run_keeper

    run_keeper(fanout, lambda text: print_json({"status": text}) if as_json else click.echo(text))


@fanout.command(
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
)
@click.pass_context
def worker(ctx: click.Context, /, **_: Any) -> None:
    """Start a fast worker for the runs in fanout_queue.

    It gives up the broker's acknowledgements, because the ledger has them: what it loses is sent
    again. Further options are those of `celery worker`; the pool is solo or threads.
    """
    from celery_fanout.app.fanout import get_fanout
    from celery_fanout.app.processes import run_fast_worker
    from celery_fanout.exceptions import FanoutError

    try:
        run_fast_worker(get_fanout(ctx.obj.app), ctx.args)
    except FanoutError as exc:
        raise click.ClickException(str(exc)) from exc
