"""``celery -A proj fanout subscriptions | explain``: who subscribes, and whom an event reaches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from celery_fanout.cli.command import command, print_json, print_table, read_json

if TYPE_CHECKING:
    from celery_fanout.app.fanout import Fanout
    from celery_fanout.subscribing.limits import Limit
    from celery_fanout.subscribing.registry import Subscription


def _filter_name(subscription: Any) -> str:
    if subscription.filter is None:
        return ""
    return str(getattr(subscription.filter, "__qualname__", repr(subscription.filter)))


@click.command()
@command
def subscriptions(fanout: Fanout, as_json: bool) -> None:
    """List what every task subscribes to."""
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
            "flow": flow_control_of(sub),
            "where": sub.where,
        }
        for sub in fanout.registry
    ]
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


def flow_control_of(subscription: Subscription) -> list[str]:
    """Return the flow control of a subscription as its code has it, an option each, in words."""
    from celery_fanout.operating.texts import period_of
    from celery_fanout.subscribing.limits import Singleton, function_name

    words: list[str] = []
    for name, limit in subscription.limits_by_name().items():
        kind, _, whose = name.partition(" ")
        whose, by, key = whose.partition(" by ")
        shared = "" if whose == subscription.id else f" {whose}"
        number = f"mode {limit.mode}" if isinstance(limit, Singleton) else _number(kind, limit)
        words.append(f"{kind}{shared} {number}{by}{key}")
    options = subscription.limits
    if options is not None:
        priority = options.priority
        if priority is not None:
            words.append(f"priority {function_name(priority) if callable(priority) else priority}")
        for name in ("start_timeout", "finish_timeout"):
            seconds: float | None = getattr(options, name)
            if seconds is not None:
                words.append(f"{name} {period_of(seconds)}")
    return words + [f"cancel_on {item.event}" for item in subscription.cancel_on]


def _number(kind: str, limit: Limit) -> str:
    from celery_fanout.operating.limits import numbers_of
    from celery_fanout.operating.texts import number_of, period_of
    from celery_fanout.subscribing.limits import Debounce, Throttle, seconds_of

    text = number_of(kind, *numbers_of(limit))
    if isinstance(limit, Throttle) and limit.burst:
        return f"{text}, burst {limit.burst:,}"
    if isinstance(limit, Debounce) and limit.timeout is not None:
        return f"{text}, at most {period_of(seconds_of(limit.timeout))}"
    return text


@click.command()
@click.argument("name")
@click.argument("data", required=False)
@command
def explain(fanout: Fanout, name: str, data: str | None, as_json: bool) -> None:
    """Say whom an event would reach, and why.

    And of those with flow control what would happen now. DATA is JSON, "-" for standard input, or
    @FILE. Nothing is published.
    """
    explanations = fanout.explain(name, read_json(data))
    if as_json:
        print_json(
            [
                {
                    "subscription": e.subscription.id,
                    "matches": e.matches,
                    "reason": e.reason,
                    "flow": e.flow,
                }
                for e in explanations
            ]
        )
    elif explanations:
        print_table(
            ["RUNS", "SUBSCRIPTION", "REASON"],
            [
                [
                    "yes" if e.matches else "no",
                    e.subscription.id,
                    f"{e.reason}; {e.flow}" if e.flow else e.reason,
                ]
                for e in explanations
            ],
        )
    else:
        click.echo("No task subscribes to an event.")
