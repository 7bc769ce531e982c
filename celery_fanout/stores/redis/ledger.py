"""The ledger in Redis: one script for each change, one round trip for each script."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celery_fanout.stores.redis import calls
from celery_fanout.stores.redis.client import RedisConnection, connect
from celery_fanout.stores.redis.keys import Keys
from celery_fanout.stores.redis.limits import RedisLimits
from celery_fanout.stores.redis.packing import (
    dumps,
    list_args,
    pack_rules,
    record_call,
    recorded_of,
    run_json,
    runs_json,
    settle_call,
)
from celery_fanout.stores.redis.scripting import Scripts
from celery_fanout.stores.redis.views import RedisViews

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from celery_fanout.stores.records import (
        Claim,
        LedgerRules,
        NewEvent,
        NewRun,
        Recorded,
        Settled,
        Taken,
    )
    from celery_fanout.stores.states import RunState

#: How many recorded events a wait looks through in one script, so that none blocks Redis for long.
LOOK_BACK = 500

#: How many runs one script changes at most.
AT_ONCE = 500


class RedisLedger(RedisViews, RedisLimits):
    """A :class:`~celery_fanout.stores.ledger.Ledger` in Redis or Valkey.

    Its parts are those of the protocol, each in the file of the same name. They share the
    connection and the keys, and know nothing of one another.

    Args:
        url: where, see :func:`~celery_fanout.stores.redis.client.connect`.
        rules: the settings that its decisions follow.
        prefix: what all its keys begin with.
        clock: the time, for tests; the server's by default.
        options: see :func:`~celery_fanout.stores.redis.client.connect`.
        timeout: how long an answer may take, in seconds.
        connection: the way there, if others share it.
    """

    name = "The Redis ledger"
    supports_publish = True
    supports_flow = True
    shards = 1
    _tells_others = False

    def __init__(
        self,
        url: str,
        rules: LedgerRules,
        *,
        prefix: str = "fanout",
        clock: Callable[[], float] | None = None,
        options: Mapping[str, Any] | None = None,
        timeout: float = 5.0,
        connection: RedisConnection | None = None,
    ) -> None:
        self.url = url
        self.clock = clock  # for who works out times between two calls
        keys = Keys(prefix)
        client_options = dict(options or {})
        scripts = Scripts(
            self.name,
            keys.root,
            pack_rules(rules),
            connection or RedisConnection(lambda: connect(url, client_options, timeout)),
            clock,
        )
        RedisViews.__init__(self, scripts, keys, rules)
        RedisLimits.__init__(self, scripts, keys)

    def close(self) -> None:
        """Close its connections; the next call opens new ones."""
        self._scripts.connection.close()

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
        return recorded_of(event, self._scripts.run(record_call(event, news=self._tells_others)))

    def record_command(self, event: NewEvent) -> list[Any]:
        """Return the command that does that."""
        return self._scripts.command(record_call(event, news=self._tells_others))

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
        queue_of = queues or {}
        lists = list_args(messages or {})
        for start in range(0, len(run_ids), AT_ONCE):
            runs = [(i, queue_of.get(i, "")) for i in run_ids[start : start + AT_ONCE]]
            self._scripts.run(calls.published(runs=dumps(runs), lists=lists))
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
        """Claim a run for this worker."""
        event = attributes = data = run = ""
        if recreate is not None:
            facts = {"key": recreate.key, "name": recreate.name, "gen": recreate.generation}
            event, run = dumps(facts), run_json(recreate.runs[0])
            attributes, data = recreate.attributes, recreate.data
        call = calls.claim(
            id=run_id,
            boot=boot,
            nonce=nonce,
            retries=retries,
            put_back=f"1{left}" if put_back else "0",
            event=event,
            attributes=attributes,
            data=data,
            run=run,
        )
        return self._scripts.run(call)

    def store(
        self,
        run_id: str,
        token: int,
        field: str,
        text: str,
        *,
        final: bool,  # noqa: ARG002 - the protocol's; the script sees from the text what is final
    ) -> str | None:
        """Store a checkpoint; a final one is never overwritten."""
        return self._scripts.run(calls.store(id=run_id, token=token, field=field, text=text))

    def settle(self, run_id: str, token: int, to: RunState, **options: Any) -> Settled:
        """Leave ``running``, or ``completing``."""
        return self._scripts.run(settle_call(run_id, token, to, **options))

    def spawn(self, run_id: str, token: int, group: str, children: Sequence[NewRun]) -> Settled:
        """Record child runs."""
        runs = runs_json(children)
        return self._scripts.run(calls.spawn(id=run_id, token=token, group=group, runs=runs))

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
        answer: str | int | None = 0
        while isinstance(answer, int):
            call = calls.wait(
                id=run_id,
                token=token,
                field=field,
                name=name,
                match=match,
                since=f"{since:.6f}",
                due="1e308" if due == float("inf") else f"{due:.6f}",
                chunk=LOOK_BACK,
                start=answer,
            )
            answer = self._scripts.run(call)
        return answer

    def end_wait(self, run_id: str, token: int, field: str) -> str | None:
        """Give up a wait that has timed out."""
        return self._scripts.run(calls.end_wait(id=run_id, token=token, field=field, event=""))

    # -- the keeper -----------------------------------------------------------------------------

    def renew(self, boot: str, run_ids: Sequence[str]) -> None:
        """Renew the leases of what a worker holds."""
        for start in range(0, len(run_ids), AT_ONCE):
            ids = run_ids[start : start + AT_ONCE]
            late = self._scripts.run(calls.renew(boot=boot, ids=ids))
            if late:
                self.cancel(late, "finish_timeout")

    def release(self, boot: str, run_ids: Sequence[str]) -> list[str]:
        """Let go of what a worker that stops still has."""
        return self._scripts.run(calls.release(boot=boot, ids=run_ids)) if run_ids else []

    def take(
        self, run_ids: Sequence[str] | None = None, *, limit: int = 100, grace: bool = False
    ) -> Taken:
        """Collect what is due, to be published."""
        if run_ids is not None:
            limit = 0  # it is for all that is due: of no runs, none is
        return self._scripts.run(calls.take(limit=limit, grace=int(grace), ids=run_ids or ()))

    def resend(self, queue: str, before: float, *, limit: int = 100) -> list[str]:
        """Make due what was lost on the way to a worker."""
        call = calls.resend(queue=queue, before=f"{before:.6f}", limit=limit)
        return self._scripts.run(call)

    def abandon(self, run_id: str, boot: str, error: Mapping[str, Any], *, final: bool) -> Settled:
        """Tell that the process that executed a run is gone."""
        return self._scripts.run(
            calls.abandon(id=run_id, boot=boot, error=dumps(dict(error)), final=int(final))
        )

    def unregistered(self, run_id: str, delay: float) -> Settled:
        """Put a run back whose task this worker does not know."""
        return self._scripts.run(calls.unregistered(id=run_id, delay=delay))

    def awaiting_follow_up(self, *, older_than: float, limit: int = 100) -> list[str]:
        """Return runs whose follow-up is not recorded."""
        return self._scripts.run(calls.awaiting_follow_up(older_than=older_than, limit=limit))

    def followed_up(self, run_id: str) -> None:
        """Note that the follow-up of a run is recorded."""
        self._scripts.ask(self._scripts.client.zrem, self._keys.untold, run_id)

    def adopt(self, run_id: str, child: NewRun) -> bool:
        """Record a child of a run that has ended."""
        return self._scripts.run(calls.adopt(id=run_id, run=run_json(child)))

    def sweep(self, *, limit: int = 1000) -> int:
        """Remove from the indexes what has expired."""
        return self._scripts.run(calls.sweep(limit=limit))

    # -- control --------------------------------------------------------------------------------

    def cancel(self, run_ids: Sequence[str], reason: str) -> tuple[list[str], list[str]]:
        """Cancel runs that are not final, and the runs that they invoked."""
        return self._scripts.run(calls.cancel(reason=reason, ids=run_ids))

    def reopen(self, run_id: str, reason: str) -> bool:
        """Run a failed or cancelled run again."""
        return self._scripts.run(calls.reopen(id=run_id, reason=reason))

    def pause(self, subscription: str) -> bool:
        """Hold back the runs of a subscription."""
        return self._scripts.run(calls.pause(subscription=subscription))

    def resume(
        self, subscription: str, *, limit: int = 1000, go_on: bool = False
    ) -> tuple[int, bool]:
        """Let them go."""
        call = calls.resume(subscription=subscription, limit=limit, go_on=int(go_on))
        return self._scripts.run(call)
