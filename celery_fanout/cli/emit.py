"""``celery -A proj fanout emit``: publishing an event, and waiting for its runs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from celery_fanout.cli.command import command, print_json, print_table, read_json

if TYPE_CHECKING:
    from celery_fanout.app.fanout import Fanout

#: How alike two names of events must be for one to be the other misspelt; 1 is equal.
LIKENESS = 0.75


@click.command()
@click.argument("name")
@click.argument("data", required=False)
@click.option("--id", help="The event's id; the same id gives the same runs.")
@click.option("--subject", help="What the event is about.")
@click.option("--source", help="Where it happened.")
@click.option("--delay", type=float, help="Seconds before subscribers start.")
@click.option("--expires", type=float, help="Seconds after which no run starts any more.")
@click.option("--wait", type=float, help="Wait up to this many seconds for the results.")
@command
def emit(
    fanout: Fanout, name: str, data: str | None, wait: float | None, as_json: bool, **options: Any
) -> None:
    """Publish an event to its subscribers.

    DATA is JSON, "-" for standard input, or @FILE. With --wait the exit code is 1 if a run failed
    or is still pending.
    """
    emission = fanout.emit(name, read_json(data), **options)
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
                named = getattr(outcome.error, "error_type", "")
                kind = "" if named else f"{type(outcome.error).__name__}: "
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
    from celery_fanout.exceptions.describing import nearest

    names = [sub.pattern for sub in fanout.registry if not sub.pattern.endswith("*")]
    return nearest(name, names, likeness=LIKENESS)


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
