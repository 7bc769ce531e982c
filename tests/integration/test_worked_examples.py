"""The worked examples of the docs, in real prefork workers that are killed meanwhile."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from celery_fanout import Emission, emit, get_fanout
from celery_fanout.stores.states import RunState
from tests.integration.examples import PART, make_app
from tests.processes import wait_until
from tests.servers import Oracle, Worker


class Examples:
    """The app of ``examples.py``, its workers, and what they wrote down."""

    def __init__(self, url: str, oracle: Oracle, start: Callable[..., Worker]) -> None:
        self.app = make_app(url)
        self.oracle = oracle
        self._url = url
        self._start = start

    def worker(self, concurrency: int) -> Worker:
        """Start a prefork worker."""
        return self._start(
            "tests.integration.examples",
            concurrency=concurrency,
            args=["--prefetch-multiplier", "2"],
            env={**self.oracle.environment, "EXAMPLES_URL": self._url},
        )

    def emit(self, *event: Any, **options: Any) -> Emission:
        """Emit an event."""
        return emit(*event, app=self.app, **options)

    def counts(self, what: str = "what") -> dict[Any, int]:
        """Return how often everything was called."""
        return dict(Counter(record[what] for record in self.oracle.read() if what in record))

    def open_runs(self) -> dict[str, int]:
        """Return how many runs have not ended, by their state."""
        counts = get_fanout(self.app).ledger.counts()
        final = (RunState.SUCCEEDED, RunState.FAILED, RunState.CANCELLED)
        return {str(state): n for state, n in counts.items() if n and state not in final}


@pytest.fixture
def examples(
    redis_url: str, oracle: Oracle, start_worker: Callable[..., Worker]
) -> Iterator[Examples]:
    examples = Examples(redis_url, oracle, start_worker)
    yield examples
    examples.app.close()


def test_several_models_one_prompt(examples: Examples) -> None:
    """One model is overloaded twice, and another kills its process: only they are asked again."""
    examples.worker(concurrency=2)
    examples.worker(concurrency=2)
    (outcome,) = examples.emit("question/asked", {"text": " Train or car? "}).get(timeout=60)
    assert outcome.value == {
        "model": "large",
        "text": "Take the train, it is quicker.",
        "price": 3 * len("Train or car?"),
    }
    assert examples.counts() == {"prompt": 1, "small": 1, "medium": 3, "large": 2, "judge": 1}
    assert examples.open_runs() == {}


ORDERS: list[dict[str, Any]] = [{"id": n, "quantity": -1 if n == 13 else n} for n in range(500)]
TOTAL = sum(3 * order["quantity"] for order in ORDERS if order["quantity"] >= 0)


def finish_batch(examples: Examples, emission: Emission) -> dict[int, int]:
    """Wait for the end, look at what came out, and return how often each part was priced."""
    priced, archived = emission.get(timeout=40)
    assert priced.value == {"orders": 500, "total": TOTAL, "errors": ["order 13"]}
    assert archived.value == "archive/monday.json"

    wait_until(lambda: "report" in examples.counts())
    wait_until(lambda: not examples.open_runs())
    assert examples.counts()["report"] == 1
    (told,) = [record["outcomes"] for record in examples.oracle.read() if "outcomes" in record]
    assert [found["value"] for found in told] == [priced.value, archived.value]
    assert [found["state"] for found in told] == ["succeeded", "succeeded"]

    parts = examples.counts("first")
    assert sorted(parts) == list(range(0, 500, PART))
    return parts


def test_a_batch_of_500_items_with_a_fan_in(examples: Examples) -> None:
    """A pool process is killed in the middle: it costs the part that it was just pricing."""
    examples.worker(concurrency=2)
    examples.worker(concurrency=2)
    orders = [{**order, "kill": True} if order["id"] == 250 else order for order in ORDERS]
    batch = {"name": "monday", "orders": orders}
    report = examples.app.tasks["examples.report"]
    emission = examples.emit("orders/uploaded", batch, then=report)
    parts = finish_batch(examples, emission)
    assert {first for first, times in parts.items() if times > 1} == {250}

    # the same batch again: the same runs, and nothing happens
    same = examples.emit("orders/uploaded", batch, id=emission.event.id, then=report)
    assert [run.id for run in same.runs] == [run.id for run in emission.runs]
    assert examples.open_runs() == {}
    assert examples.counts()["report"] == 1


def test_a_batch_whose_worker_is_killed(examples: Examples) -> None:
    """It costs what its two processes were just pricing."""
    first = examples.worker(concurrency=2)
    batch = {"name": "monday", "orders": ORDERS}
    report = examples.app.tasks["examples.report"]
    emission = examples.emit("orders/uploaded", batch, then=report)
    wait_until(lambda: examples.counts().get("part", 0) >= 10)
    first.kill()
    assert "report" not in examples.counts()
    examples.worker(concurrency=2)
    parts = finish_batch(examples, emission)
    assert sum(times > 1 for times in parts.values()) <= 2, parts
