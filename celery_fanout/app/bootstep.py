"""The bootstep that runs the keeper in a worker."""

from __future__ import annotations

from typing import Any

from celery import bootsteps
from celery.signals import worker_shutdown

from celery_fanout.app.fanout import get_fanout
from celery_fanout.keeping.keeper import Held, Keeper
from celery_fanout.keeping.lost_messages import LostMessages
from celery_fanout.model.boot import boot_id
from celery_fanout.running.execution import active_runs


class KeeperStep(bootsteps.StartStopStep):
    """Runs the keeper in a worker; Celery calls it."""

    requires = ("celery.worker.components:Pool",)

    def __init__(self, parent: Any, **options: Any) -> None:
        super().__init__(parent, **options)
        self._keeper: Keeper | None = None
        self._held = Held()
        self._lost: LostMessages | None = None

    def include_if(self, parent: Any) -> bool:
        """Whether the worker's app has a ledger."""
        return get_fanout(parent.app).level2 is not None

    def start(self, parent: Any) -> None:
        """Start the keeper."""
        level2 = get_fanout(parent.app).level2
        assert level2 is not None  # noqa: S101 - include_if() looked
        self._held.listen()
        self._lost = LostMessages(parent.app, level2.ledger)
        self._keeper = level2.keeper(boot=boot_id(), held=self._held.ids, lost=self._lost)
        self._keeper.start()
        worker_shutdown.connect(self._end)

    def close(self, parent: Any) -> None:  # noqa: ARG002 - Celery's signature
        """Look for nothing more; what the pool still executes keeps its leases.

        Celery calls it before it stops anything, also when the worker stops at once.
        """
        if self._keeper is not None:
            self._keeper.leave()

    def terminate(self, parent: Any) -> None:
        """See to the end of a worker that stops at once: Celery sends no ``worker_shutdown`` then.

        A pool of threads goes on with its bodies. They keep their leases until the process ends.
        """
        then = parent.blueprint.on_stopped

        def on_stopped() -> None:
            if then is not None:
                then()
            if not active_runs():
                self._end()

        parent.blueprint.on_stopped = on_stopped

    def _end(self, **_: Any) -> None:
        """Let go of what is left, now that the pool has stopped."""
        worker_shutdown.disconnect(self._end)
        if self._keeper is not None:
            self._keeper.stop()
            self._keeper = None
        self._held.stop()
        if self._lost is not None:
            self._lost.close()
