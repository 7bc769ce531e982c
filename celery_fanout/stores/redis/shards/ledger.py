"""The ledger in several shards, so that the nodes of a cluster share the work.

An event lies in one shard, with all its runs, their tails, children and fan-in. So nearly every
change is one script there, as in a ledger with one shard. What concerns runs of other events, the
waits and ``cancel_on`` that an event meets, follows in changes of their own, each safe to repeat:

* The event is recorded, and noted as news. Then each shard in which anybody waits for an event of
  this name is told of it. Then the note is removed. A keeper tells what is still noted after a
  while, as its emitter has died.
* A wait is filed first, and then looks back at what is recorded elsewhere. So of an event and a
  wait that come at the same time, one sees the other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celery.utils.log import get_logger

from celery_fanout.exceptions import StoreUnavailable
from celery_fanout.model.failpoints import hit
from celery_fanout.stores.records import Recorded, Taken
from celery_fanout.stores.redis.shards.limits import ShardedLimits
from celery_fanout.stores.redis.shards.locating import Shards
from celery_fanout.stores.redis.shards.shard import News
from celery_fanout.stores.redis.shards.views import ShardedViews
from celery_fanout.stores.redis.unpacking import parts_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from celery_fanout.stores.records import Claim, LedgerRules, NewEvent, NewRun, Settled
    from celery_fanout.stores.redis.calls import PastEvent
    from celery_fanout.stores.redis.shards.shard import Shard
    from celery_fanout.stores.states import RunState

logger = get_logger(__name__)

#: How many forgotten events of a shard are told of at a time.
AT_ONCE = 100


class ShardedLedger(ShardedViews, ShardedLimits):
    """A :class:`~celery_fanout.stores.ledger.Ledger` in several shards of Redis or Valkey.

    Args:
        url: where, see :func:`~celery_fanout.stores.redis.client.connect`.
        rules: the settings that its decisions follow.
        shards: how many, 2 to 64.
        prefix: what all its keys begin with.
        clock: the time, for tests; the servers' by default, which have to agree.
        options: see :func:`~celery_fanout.stores.redis.client.connect`.
        timeout: how long an answer may take, in seconds.
    """

    supports_publish = True

    def __init__(
        self,
        url: str,
        rules: LedgerRules,
        shards: int,
        *,
        prefix: str = "fanout",
        clock: Callable[[], float] | None = None,
        options: Mapping[str, Any] | None = None,
        timeout: float = 5.0,
    ) -> None:
        all_shards = Shards(
            url, rules, shards, prefix, clock=clock, options=options, timeout=timeout
        )
        ShardedViews.__init__(self, all_shards)
        ShardedLimits.__init__(self, all_shards)
        self.name = all_shards.first.name
        self.url = url
        self.rules = rules
        self.shards = shards
        self.parts = all_shards.parts
        self._turn = 0
        self._missed: StoreUnavailable | None = None
        self._number_noted = False

    def close(self) -> None:
        """Close its connections; the next call opens new ones."""
        self._shards.first.close()

    # -- the path of a run ----------------------------------------------------------------------

    def record(self, events: Sequence[NewEvent]) -> list[Recorded]:
        """Record events and their runs, and tell the other shards."""
        pairs = [(self._shards.home(event.key), event) for event in events]
        answers = self._shards.first.record_many(pairs)
        news = [
            News(home, event.key, event.name, event.attributes, event.data)
            for (home, event), recorded in zip(pairs, answers, strict=True)
            if recorded.status != "generation" and not event.replay
        ]
        if not news:
            return answers
        hit("record.before_news")
        try:
            if len(events) > 1 or answers[0].status == "repeat":
                news = self._untold_of(news)
            woken = self._tell(news)
        except StoreUnavailable as exc:
            # it is recorded, and noted: to raise would make the caller record it again
            logger.warning("%s A keeper tells the other shards.", exc)
            return answers
        return [
            Recorded(r.status, r.generation, r.runs, [*r.woken, *woken.get(event.key, ())])
            for event, r in zip(events, answers, strict=True)
        ]

    def _untold_of(self, news: Sequence[News]) -> list[News]:
        """Return what was not told, with the time of its record.

        Of events that were repeated; and of many in one call, of which the first concern no runs of
        the last.
        """
        times = self._shards.first.many(
            [("zscore", item.home.keys.news, item.key) for item in news]
        )
        pairs = zip(news, times, strict=True)
        return [item._replace(at=float(at)) for item, at in pairs if at is not None]

    def _tell(self, news: Sequence[News]) -> dict[str, list[str]]:
        """Tell the other shards of events. Returns whom each woke, by its key."""
        waits = [(shard, name) for name in {item.name for item in news} for shard in self.parts]
        counts = self._shards.first.many(
            [("hlen", shard.keys.waits(name)) for shard, name in waits]
        )
        waiting = {wait for wait, count in zip(waits, counts, strict=True) if count}
        woken: dict[str, list[str]] = {}
        for item in news:
            for shard in self.parts:
                if shard is not item.home and (shard, item.name) in waiting:
                    woken.setdefault(item.key, []).extend(shard.announce(item))
        self._shards.first.many([("zrem", item.home.keys.news, item.key) for item in news])
        return woken

    def mark_published(
        self,
        run_ids: Sequence[str],
        queues: Mapping[str, str] | None = None,
        messages: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        """Turn pending runs into published ones."""
        todo: list[Any] = []
        for shard, ids in self._shards.grouped(run_ids):
            todo.append((shard.mark_published, (ids, queues, None if todo else messages)))
        self._shards.call(todo)

    def claim(
        self,
        run_id: str,
        boot: str,
        nonce: str,
        *,
        recreate: NewEvent | None = None,
        **options: Any,
    ) -> Claim:
        """Claim a run for this worker."""
        home = None if recreate is None else self._shards.home(recreate.key)
        shard = self._shards.of(run_id, home)
        return shard.claim(run_id, boot, nonce, recreate=recreate, **options)

    def store(self, run_id: str, token: int, field: str, text: str, *, final: bool) -> str | None:
        """Store a checkpoint; a final one is never overwritten."""
        return self._shards.of(run_id).store(run_id, token, field, text, final=final)

    def settle(self, run_id: str, token: int, to: RunState, **options: Any) -> Settled:
        """Leave ``running``, or ``completing``."""
        return self._shards.of(run_id).settle(run_id, token, to, **options)

    def spawn(self, run_id: str, token: int, group: str, children: Sequence[NewRun]) -> Settled:
        """Record child runs."""
        return self._shards.of(run_id).spawn(run_id, token, group, children)

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
        shard = self._shards.of(run_id)
        filed = shard.file_wait(run_id, token, field, name, match)
        if filed is None or filed[0]:
            return None if filed is None else filed[0]
        hit("wait.before_look_back")
        event = self._look_back(name, match, since, filed[1])
        if event is not None:
            return shard.answer_wait(run_id, token, field, event)
        # only now: an attempt that finds this checkpoint looks back no more
        return shard.wait(run_id, token, field, name, match, since=float("inf"), due=due)

    def _look_back(self, name: str, match: str, since: float, own_event: str) -> PastEvent | None:
        counts = self._shards.first.many(
            [("zcount", shard.keys.events(name), f"{since:.6f}", "+inf") for shard in self.parts]
        )
        events = [
            shard.look_back(name, match, since, own_event)
            for shard, count in zip(self.parts, counts, strict=True)
            if count
        ]
        return min((event for event in events if event is not None), default=None)

    def end_wait(self, run_id: str, token: int, field: str) -> str | None:
        """Give up a wait that has timed out."""
        return self._shards.of(run_id).end_wait(run_id, token, field)

    # -- the keeper -----------------------------------------------------------------------------

    def _some(self, limit: int, call: Callable[[Shard, int], Sequence[Any]]) -> list[Any]:
        """Collect up to ``limit`` things, from another shard first each time.

        What is collected has been changed already. So a shard that is away is told of when nothing
        was, or by the next call.

        Raises:
            StoreUnavailable: if a shard did not answer.
        """
        if self._missed is not None:
            missed, self._missed = self._missed, None
            raise missed
        self._turn += 1
        turn = self._turn % len(self.parts)
        collected: list[Any] = []
        for shard in [*self.parts[turn:], *self.parts[:turn]]:
            if len(collected) >= limit:
                break
            try:
                collected += call(shard, limit - len(collected))
            except StoreUnavailable as exc:
                self._missed = exc
        if self._missed is not None and not collected:
            missed, self._missed = self._missed, None
            raise missed
        return collected

    def renew(self, boot: str, run_ids: Sequence[str]) -> None:
        """Renew the leases of what a worker holds."""
        self._shards.call(
            [(shard.renew, (boot, ids)) for shard, ids in self._shards.grouped(run_ids)]
        )

    def release(self, boot: str, run_ids: Sequence[str]) -> list[str]:
        """Let go of what a worker that stops still has."""
        groups = self._shards.grouped(run_ids)
        released = self._shards.call([(shard.release, (boot, ids)) for shard, ids in groups])
        return [run_id for part in released for run_id in part]

    def take(
        self, run_ids: Sequence[str] | None = None, *, limit: int = 100, grace: bool = False
    ) -> Taken:
        """Collect what is due, and tell of the events whose emitter died before it did.

        Of some runs ``next_due`` is that of their shards.
        """
        if run_ids is not None:
            groups = self._shards.grouped(run_ids) or [(shard, []) for shard in self.parts]
            return _merged([shard.take(ids, grace=grace) for shard, ids in groups])
        parts: list[Taken] = []

        def take(shard: Shard, left: int) -> Sequence[Any]:
            parts.append(shard.take(limit=left, grace=grace))
            return parts[-1].wakeups

        self._some(limit, take)
        try:
            self._note_number()
            late = self._tell_late(max(part.now for part in parts))
            if late:
                parts.append(self.take(late, grace=grace))
        except StoreUnavailable as exc:
            self._missed = exc
        return _merged(parts)

    def _tell_late(self, now: float) -> list[str]:
        """Tell the other shards of what is noted for long. Returns whom it woke."""
        top = f"{now - self.rules.grace:.6f}"
        answers = self._shards.first.many(
            [
                ("zrangebyscore", shard.keys.news, "-inf", top, 0, AT_ONCE, True)
                for shard in self.parts
            ]
        )
        noted = [
            (shard, key, float(at))
            for shard, answer in zip(self.parts, answers, strict=True)
            for key, at in answer
        ]
        if not noted:
            return []
        names = [("hget", shard.keys.event(key), "nm") for shard, key, _ in noted]
        texts = [("get", shard.keys.text(key)) for shard, key, _ in noted]
        answers = self._shards.first.many(names + texts)
        said = zip(answers[: len(noted)], answers[len(noted) :], strict=True)
        news: list[News] = []
        for (shard, key, at), (name, text) in zip(noted, said, strict=True):
            # one that is gone was noted for longer than it was kept
            _, attributes, _, data = parts_of(text) if text else ("", "{}", "", "null")
            news.append(News(shard, key, name or "", attributes, data, at))
        return [run_id for woken in self._tell(news).values() for run_id in woken]

    def _note_number(self) -> None:
        """Note how many shards there are, for ``check``; not if that leaves out some of before."""
        if not self._number_noted:
            stored = self._shards.first.stored_shards()
            if stored != self.shards and self.shards % stored == 0:
                for subscription in self.paused():
                    self.pause(subscription)  # in the new ones too
                self._shards.first.store_shards(self.shards)
            self._number_noted = True

    def stored_shards(self) -> int:
        """Return in how many shards the ledger was kept so far."""
        return self._shards.first.stored_shards()

    def resend(self, queue: str, before: float, *, limit: int = 100) -> list[str]:
        """Make due what was lost on the way to a worker."""
        return self._some(limit, lambda shard, left: shard.resend(queue, before, limit=left))

    def abandon(self, run_id: str, boot: str, error: Mapping[str, Any], *, final: bool) -> Settled:
        """Tell that the process that executed a run is gone."""
        return self._shards.of(run_id).abandon(run_id, boot, error, final=final)

    def unregistered(self, run_id: str, delay: float) -> Settled:
        """Put a run back whose task this worker does not know."""
        return self._shards.of(run_id).unregistered(run_id, delay)

    def awaiting_follow_up(self, *, older_than: float, limit: int = 100) -> list[str]:
        """Return runs whose follow-up is not recorded."""
        return self._some(
            limit, lambda s, left: s.awaiting_follow_up(older_than=older_than, limit=left)
        )

    def followed_up(self, run_id: str) -> None:
        """Note that the follow-up of a run is recorded."""
        self._shards.of(run_id).followed_up(run_id)

    def adopt(self, run_id: str, child: NewRun) -> bool:
        """Record a child of a run that has ended."""
        return self._shards.of(run_id).adopt(run_id, child)

    def sweep(self, *, limit: int = 1000) -> int:
        """Remove from the indexes what has expired."""
        return len(self._some(limit, lambda shard, left: range(shard.sweep(limit=left))))

    # -- control --------------------------------------------------------------------------------

    def cancel(self, run_ids: Sequence[str], reason: str) -> tuple[list[str], list[str]]:
        """Cancel runs that are not final, and the runs that they invoked."""
        answers = [shard.cancel(ids, reason) for shard, ids in self._shards.grouped(run_ids)]
        cancelled = [run_id for part, _ in answers for run_id in part]
        return cancelled, [run_id for _, part in answers for run_id in part]

    def reopen(self, run_id: str, reason: str) -> bool:
        """Run a failed or cancelled run again."""
        return self._shards.of(run_id).reopen(run_id, reason)

    def pause(self, subscription: str) -> bool:
        """Hold back the runs of a subscription."""
        changed = [shard.pause(subscription) for shard in self.parts]
        return any(changed)

    def resume(
        self, subscription: str, *, limit: int = 1000, go_on: bool = False
    ) -> tuple[int, bool]:
        """Let them go."""
        count, left = 0, False
        for shard in self.parts:  # with 0 left to go it is only paused no more, in each of them
            some, more = shard.resume(subscription, limit=limit - count, go_on=go_on)
            count, left = count + some, left or more
        return count, left


def _merged(parts: Sequence[Taken]) -> Taken:
    dues = [part.next_due for part in parts if part.next_due is not None]
    return Taken(
        [wakeup for part in parts for wakeup in part.wakeups],
        [run_id for part in parts for run_id in part.ended],
        min(dues, default=None),
        max(part.now for part in parts),
    )
