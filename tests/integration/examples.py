"""The apps of the worked examples in the docs, whose functions write down that they were called.

See docs/how-to/several-models.md and docs/how-to/a-batch-of-items.md.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

from celery import Celery

from celery_fanout import current_run, on_event, step
from tests.servers import Oracle

MODELS = ["small", "medium", "large"]
ANSWERS = {"small": "No.", "medium": "Take the train.", "large": "Take the train, it is quicker."}

#: How many orders are priced in one task.
PART = 10


class Overloaded(Exception):  # noqa: N818 - reads better in the guide
    """Ask again later."""


def make_app(url: str) -> Celery:
    """Return the app; each worker has one, and so has the test."""
    app = Celery("examples", broker=url, backend=url, set_as_current=False)
    app.conf.fanout_lease = 2.0  # so that a dead worker's runs go on soon
    retried: dict[str, Any] = {
        "autoretry_for": (Overloaded,),
        "default_retry_delay": 0,
        "max_retries": 5,
    }

    def task(body: Callable[..., Any], **options: Any) -> Any:
        return app.task(body, name=f"examples.{body.__name__}", shared=False, **options)

    on_event("question/asked")(task(answer, **retried))
    on_event("orders/uploaded")(task(price_all, **retried))
    on_event("orders/uploaded")(task(archive))
    task(report)
    return app


def note(what: str, **more: Any) -> None:
    """Write down that something happened."""
    run = current_run()
    assert run is not None
    Oracle.from_environment().write(what=what, run=run.id, pid=os.getpid(), **more)


def times(what: str) -> int:
    """Return how often it happened."""
    return sum(record["what"] == what for record in Oracle.from_environment().read())


# --- several models, one prompt ------------------------------------------------------------------


def prepare(text: str) -> str:
    note("prompt")
    return text.strip()


def ask(model: str, prompt: str) -> dict[str, Any]:
    note(model)
    if model == "medium" and times(model) < 3:
        raise Overloaded(f"{model} has too much to do")
    if model == "large" and times(model) < 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return {"model": model, "text": ANSWERS[model], "price": len(prompt)}


def judge(answers: list[dict[str, Any]]) -> dict[str, Any]:
    note("judge")
    return max(answers, key=lambda found: len(found["text"]))


def answer(question: dict[str, Any]) -> dict[str, Any]:
    """Ask three models at the same time, and a judge at the end."""
    prompt = step.run("prompt", prepare, question["text"])
    answers = step.parallel("ask", [(ask, model, prompt) for model in MODELS])
    best = step.run("judge", judge, answers)
    return {**best, "price": sum(found["price"] for found in answers)}


# --- a batch of 500 items ------------------------------------------------------------------------


def price_part(part: list[dict[str, Any]]) -> dict[str, Any]:
    note("part", first=part[0]["id"])
    if part[0].get("kill") and not times("killed"):
        note("killed")
        os.kill(os.getpid(), signal.SIGKILL)
    errors = [f"order {order['id']}" for order in part if order["quantity"] < 0]
    total = sum(3 * order["quantity"] for order in part if order["quantity"] >= 0)
    return {"orders": len(part), "total": total, "errors": errors}


def price_all(batch: dict[str, Any]) -> dict[str, Any]:
    """Price the orders of a batch, ten in each task."""
    parts = [batch["orders"][n : n + PART] for n in range(0, len(batch["orders"]), PART)]
    priced = step.parallel("price", [(price_part, part) for part in parts])
    return {key: sum((part[key] for part in priced[1:]), priced[0][key]) for key in priced[0]}


def archive(batch: dict[str, Any]) -> str:
    """Keep the batch."""
    note("archive")
    return f"archive/{batch['name']}.json"


def report(outcomes: list[dict[str, Any]]) -> None:
    """Write down what the fan-in receives."""
    note("report", outcomes=outcomes)


if "EXAMPLES_URL" in os.environ:  # in a worker
    app = make_app(os.environ["EXAMPLES_URL"])
