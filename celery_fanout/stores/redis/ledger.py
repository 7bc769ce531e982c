"""The ledger in Redis: one script for each change, one round trip for each script."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celery_fanout.stores.redis.client import Link, Scripts, connect
from celery_fanout.stores.redis.keys import Keys
from celery_fanout.stores.redis.limits import RedisLimits
from celery_fanout.stores.redis.packing import (
    claim_of,
    dumps,
    event_args,
    list_args,
    pack_rules,
    recorded_of,
    run_json,
    runs_json,
    settle_args,
    settled_of,
    taken_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from celery_fanout.stores.ledger import (
        Claim,
        LedgerRules,
        NewEvent,
        NewRun,
        Recorded,
        Settled,
        Taken,
    )
    from celery_fanout.stores.states import RunState

__all__ = ["RedisLedger"]

#: How many recorded events a wait looks through in one script, so that none blocks Redis for long.
LOOK_BACK = 500

#: How many runs one script changes at most.
AT_ONCE = 500


class RedisLedger(RedisLimits):
    """A :class:`~celery_fanout.stores.ledger.Ledger` in Redis or Valkey.

    Args:
        url: where, see :func:`~celery_fanout.stores.redis.client.connect`.
        rules: the settings that its decisions follow.
        prefix: what all its keys begin with.
        clock: the time, for tests; the server's by default.
        options: see :func:`~celery_fanout.stores.redis.client.connect`.
        timeout: how long an answer may take, in seconds.
        link: the way there, if others share it.
    """

    name = "The Redis ledger"
    supports_publish = True
    supports_flow = True
    shards = 1

    def __init__(
        self,
        url: str,
        rules: LedgerRules,
        *,
        prefix: str = "fanout",
        clock: Callable[[], float] | None = None,
        options: Mapping[str, Any] | None = None,
        timeout: float = 5.0,
        link: Link | None = None,
    ) -> None:
        self.rules = rules
        self.url = url
        self.clock = clock
        keys = Keys(prefix)
        given = dict(options or {})
        scripts = Scripts(
            self.name,
            keys.root,
            pack_rules(rules),
            link or Link(lambda: connect(url, given, timeout)),
            clock,
        )
        super().__init__(scripts, keys)

    def close(self) -> None:
        """Close its connections; the next call opens new ones."""
        self._scripts.link.close()

    # -- the path of a run ----------------------------------------------------------------------

    def record(self, events: Sequence[NewEvent]) -> list[Recorded]:
        """Record events and their runs."""
        return self.record_many([(self, event) for event in events])

    def record_many(self, pairs: Sequence[tuple[RedisLedger, NewEvent]]) -> list[Recorded]:
        """Record events, each in its ledger of this Redis, in one round trip where possible."""
        if len(pairs) <= 1 or not self._can_pipeline:
            return [ledger.record_one(event) for ledger, event in pairs]
        (ledger, event), *others = pairs
        first = ledger.record_one(event)  # the others find the script loaded
        return [first, *self._scripts.ask(self._record_rest, others)]

    def record_one(self, event: NewEvent) -> Recorded:
        """Record one event and its runs."""
        return recorded_of(event, self._scripts.run("record", *self._record_args(event)))

    def record_command(self, event: NewEvent) -> list[Any]:
        """Return the command that does that."""
        return self._scripts.command("record", *self._record_args(event))

    def _record_rest(self, pairs: Sequence[tuple[RedisLedger, NewEvent]]) -> list[Recorded]:
        pipe = self._scripts.client.pipeline(transaction=False)
        for ledger, event in pairs:
            pipe.execute_command(*ledger.record_command(event))
        answers = pipe.execute(raise_on_error=False)
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer
        return [
            recorded_of(event, answer) for (_, event), answer in zip(pairs, answers, strict=True)
        ]

    def _record_args(self, event: NewEvent) -> list[Any]:
        return event_args(event)

    @property
    def _can_pipeline(self) -> bool:
        return not hasattr(self._scripts.client, "get_primaries")  # a cluster's refuses scripts

    def mark_published(
        self,
        run_ids: Sequence[str],
        queues: Mapping[str, str] | None = None,
        messages: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        """Turn pending runs into published ones."""
        known = queues or {}
        lists = list_args(messages or {})
        for start in range(0, len(run_ids), AT_ONCE):
            ids = run_ids[start : start + AT_ONCE]
            pairs = (value for i in ids for value in (i, known.get(i, "")))
            self._scripts.run("published", len(ids), *pairs, *lists)
            lists = [0]

    def claim(
        self,
        run_id: str,
        boot: str,
        nonce: str,
        *,
        retries: int = 0,
        recreate: NewEvent | None = None,
        put_back: bool = False,
        left: int = 0,
    ) -> Claim:
        """Take a run for execution."""
        args: list[Any] = [run_id, boot, nonce, retries, f"1{left}" if put_back else "0"]
        if recreate is None:
            args.append("")
        else:
            head = {"key": recreate.key, "name": recreate.name, "gen": recreate.generation}
            args += [dumps(head), recreate.attributes, recreate.data, run_json(recreate.runs[0])]
        return claim_of(self._scripts.run("claim", *args))

    def store(self, run_id: str, token: int, field: str, text: str, *, final: bool) -> str | None:
        """Store a checkpoint; a final one is never overwritten."""
        stored: str | None = self._scripts.run(
            "store", run_id, token, field, text, "1" if final else "0"
        )
        return stored

    def settle(
        self,
        run_id: str,
        token: int,
        to: RunState,
        *,
        result: str | None = None,
        error: Mapping[str, Any] | None = None,
        reason: str = "",
        due: float | None = None,
        retries: int | None = None,
        group: str = "",
        checkpoints: Mapping[str, str] | None = None,
        child: NewRun | None = None,
        trace: str = "",
    ) -> Settled:
        """Leave ``running``, or ``completing``."""
        args = settle_args(
            to,
            reason,
            error,
            result=result,
            due=due,
            retries=retries,
            group=group,
            checkpoints=checkpoints,
            child=child,
            trace=trace,
        )
        return settled_of(self._scripts.run("settle", run_id, token, *args))

    def spawn(self, run_id: str, token: int, group: str, children: Sequence[NewRun]) -> Settled:
        """Record child runs."""
        given = runs_json(children)
        return settled_of(self._scripts.run("spawn", run_id, token, group, given))

    def wait(
        self,
        run_id: str,
        token: int,
        field: str,
        name: str,
        match: str,
        *,
        since: float,
        due: float,
    ) -> str | None:
        """Wait for an event, or find one."""
        start = 0
        while True:
            when = "1e308" if due == float("inf") else f"{due:.6f}"
            args = (run_id, token, field, name, match, f"{since:.6f}", when, LOOK_BACK, start)
            answer: str | int | None = self._scripts.run("wait", *args)
            if not isinstance(answer, int):
                return answer
            start = answer

    def end_wait(self, run_id: str, token: int, field: str) -> str | None:
        """Give up a wait that has timed out."""
        text: str | None = self._scripts.run("end_wait", run_id, token, field)
        return text

    # -- the keeper -----------------------------------------------------------------------------

    def renew(self, boot: str, run_ids: Sequence[str]) -> None:
        """Renew the leases of what a worker holds."""
        for start in range(0, len(run_ids), AT_ONCE):
            late = self._scripts.run("renew", boot, *run_ids[start : start + AT_ONCE])
            if late:
                self.cancel(late, "finish_timeout")

    def release(self, boot: str, run_ids: Sequence[str]) -> list[str]:
        """Let go of what a worker that stops still has."""
        return list(self._scripts.run("release", boot, *run_ids)) if run_ids else []

    def take(
        self, run_ids: Sequence[str] | None = None, *, limit: int = 100, grace: bool = False
    ) -> Taken:
        """Take what is due."""
        if run_ids is not None:
            limit = 0  # it is for all that is due: of no runs, none is
        return taken_of(self._scripts.run("take", limit, "1" if grace else "0", *(run_ids or ())))

    def resend(self, queue: str, before: float, *, limit: int = 100) -> list[str]:
        """Make due what was lost on the way to a worker."""
        return list(self._scripts.run("resend", queue, f"{before:.6f}", limit))

    def abandon(self, run_id: str, boot: str, error: Mapping[str, Any], *, final: bool) -> Settled:
        """Tell that the process that executed a run is gone."""
        args = (run_id, boot, dumps(dict(error)), "1" if final else "0")
        return settled_of(self._scripts.run("abandon", *args))

    def unregistered(self, run_id: str, delay: float) -> Settled:
        """Put a run back whose task this worker does not know."""
        return settled_of(self._scripts.run("unregistered", run_id, delay))

    def untold(self, *, older_than: float, limit: int = 100) -> list[str]:
        """Return runs whose end was not told."""
        return list(self._scripts.run("untold", older_than, limit))

    def told(self, run_id: str) -> None:
        """Note that a run's end was told."""
        self._scripts.ask(self._scripts.client.zrem, f"{self._keys.root}:untold", run_id)

    def adopt(self, run_id: str, child: NewRun) -> bool:
        """Record a child of a run that has ended."""
        return bool(self._scripts.run("adopt", run_id, run_json(child)))

    def sweep(self, *, limit: int = 1000) -> int:
        """Remove from the indexes what has expired."""
        return int(self._scripts.run("sweep", limit))

    # -- control --------------------------------------------------------------------------------

    def cancel(self, run_ids: Sequence[str], reason: str) -> tuple[list[str], list[str]]:
        """Cancel runs that are not final, and the runs that they invoked."""
        cancelled, woken = self._scripts.run("cancel", reason, *run_ids)
        return list(cancelled), list(woken)

    def reopen(self, run_id: str, reason: str) -> bool:
        """Run a failed or cancelled run again."""
        return bool(self._scripts.run("reopen", run_id, reason))

    def pause(self, subscription: str) -> bool:
        """Hold back the runs of a subscription."""
        return bool(self._scripts.run("pause", subscription))

    def resume(
        self, subscription: str, *, limit: int = 1000, go_on: bool = False
    ) -> tuple[int, bool]:
        """Let them go."""
        count, left = self._scripts.run("resume", subscription, limit, "1" if go_on else "0")
        return int(count), bool(left)
