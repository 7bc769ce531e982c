"""Subscribers as services of Restate, and a durable handler that tells them of an event."""

from __future__ import annotations

from typing import Any

import restate

from tests.benchmarks.engines.records import STEPS, SUBSCRIBERS, no_steps, one_step

events = restate.Service("Events")


def _subscribe(subscriber: int) -> tuple[restate.Service, Any, Any]:
    service = restate.Service(f"Subscriber{subscriber}")

    @service.handler()
    async def plain(ctx: restate.Context, document: dict[str, Any]) -> None:
        no_steps(document, subscriber)

    @service.handler()
    async def steps(ctx: restate.Context, document: dict[str, Any]) -> None:
        for number in range(STEPS):

            async def part(number: int = number) -> dict[str, int]:  # any other needs a thread
                return one_step(document, subscriber, number)

            await ctx.run_typed(f"part-{number}", part)

    return service, plain, steps


_SUBSCRIBERS = [_subscribe(subscriber) for subscriber in range(SUBSCRIBERS)]


@events.handler("emit")
async def emit(ctx: restate.Context, event: dict[str, Any]) -> None:
    for _, plain, steps in _SUBSCRIBERS:
        ctx.service_send(steps if event["steps"] else plain, event["data"])


app = restate.app([events, *(service for service, _, _ in _SUBSCRIBERS)])
