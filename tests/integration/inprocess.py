"""An app and a worker in a thread of this process, so that a test can look into its tasks.

Messages, acknowledgements, retries and results are real and go through Redis. What needs processes
of its own is in ``test_workers.py``.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from celery import Celery, _state, signals
from celery.app.trace import reset_worker_optimizations
from celery.contrib.testing.worker import start_worker
from kombu.asynchronous import set_event_loop
from typing_extensions import Self

from celery_fanout import Outcome, emit, on_event
from celery_fanout.signals import run_suspended

EVENT = "order/placed"


class Boom(Exception):  # noqa: N818 - it is short
    """What goes wrong in the tests."""


class Shop:
    """An app whose tasks are closures of a test.

    Args:
        broker: the broker's URL.
        backend: the result backend's URL.
    """

    def __init__(self, broker: str, backend: str | None, **conf: Any) -> None:
        self.app = Celery("shop", broker=broker, backend=backend, set_as_current=False)
        # a worker that stops waits for the answer to its last BRPOP, which is 1 s otherwise
        self.app.conf.broker_transport_options = {"polling_interval": 0.05}
        self.app.conf.update(conf)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.app.close()
        gc.collect()  # results unsubscribe when they go, for which their server must still be there

    def task(self, body: Callable[..., Any], name: str = "subscriber", **options: Any) -> Any:
        """Make a task; its retries follow at once."""
        options.setdefault("default_retry_delay", 0)
        return self.app.task(body, name=name, shared=False, **options)

    def subscribe(
        self,
        body: Callable[..., Any],
        name: str = "subscriber",
        event: str = EVENT,
        subscription: dict[str, Any] | None = None,
        **options: Any,
    ) -> Any:
        """Make a task, and subscribe it."""
        return on_event(event, **(subscription or {}))(self.task(body, name, **options))

    @contextmanager
    def worker(self, pool: str = "solo", concurrency: int = 1) -> Iterator[None]:
        """Run a worker in a thread: one task at a time, or several in the pool ``"threads"``."""
        default, threads = _state.default_app, set(threading.enumerate())
        try:
            with start_worker(
                self.app,
                pool=pool,
                concurrency=concurrency,
                perform_ping_check=False,
                shutdown_timeout=60.0,
            ):
                yield
        finally:
            reset_worker_optimizations(self.app)
            set_event_loop(None)  # before Celery 5.6 the next worker would take it, and no timer
            _state.default_app = default
        left = [t for t in set(threading.enumerate()) - threads if "fanout" in t.name]
        assert not left, f"the worker has stopped, and left behind: {left}"

    def emit(self, data: Any = None, event: str = EVENT, **options: Any) -> Any:
        """Emit an event."""
        return emit(event, data, app=self.app, **options)

    def handle(self, body: Callable[..., Any], data: Any = None, **options: Any) -> Outcome:
        """Subscribe a task, emit one event, and return how its run ended."""
        self.subscribe(body, **options)
        with self.worker():
            (outcome,) = self.emit(data).get(timeout=60)
        return outcome


@contextmanager
def receiving(signal: Any) -> Iterator[list[dict[str, Any]]]:
    """Collect what a signal is sent with."""
    calls: list[dict[str, Any]] = []

    def receive(sender: Any, **arguments: Any) -> None:
        arguments.pop("signal")
        calls.append({"sender": sender.name, **arguments})

    signal.connect(receive, weak=False)
    try:
        yield calls
    finally:
        signal.disconnect(receive)


@contextmanager
def suspensions() -> Iterator[list[tuple[str, str | None]]]:
    """Collect the reasons and steps for which runs leave the worker."""
    found: list[tuple[str, str | None]] = []

    def receive(reason: str, step: str | None, **_: Any) -> None:
        found.append((reason, step))

    run_suspended.connect(receive, weak=False)
    try:
        yield found
    finally:
        run_suspended.disconnect(receive)


@contextmanager
def published() -> Iterator[list[dict[str, Any]]]:
    """Collect the headers of the messages that this process publishes."""
    found: list[dict[str, Any]] = []

    def receive(headers: dict[str, Any], **_: Any) -> None:
        found.append(headers)

    signals.after_task_publish.connect(receive, weak=False)
    try:
        yield found
    finally:
        signals.after_task_publish.disconnect(receive)
