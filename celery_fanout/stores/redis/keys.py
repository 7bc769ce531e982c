"""Every key of the ledger in Redis, in one place; the scripts build the same ones.

All keys of a ledger, or of one of its shards, share one hash tag, and so lie in one slot: each
change is one script, on Redis Cluster too. ``<sub>`` is :func:`sub_hash` of a subscription id: what
users wrote is in no key but event names, whose characters are restricted.

====================  ======  =======================================================  ===========
key                   type    what it holds                                            expires
====================  ======  =======================================================  ===========
``r:<run>``           hash    the run's record: short fields, see ``unpacking.py``     once final
``d:<run>``           hash    its checkpoints, result, error, attempts, message        once final
``e:<event>``         hash    the event's record: short fields, see ``unpacking.py``   once at rest
``t:<event>``         string  its runs, attributes, trace and data, a line each        once at rest
``due``               zset    every run that is not final, by when to look at it       never
``s:<state>``         zset    runs by state, by when it changed                        swept
``u:<sub>``           zset    runs by subscription, by when they were recorded         swept
``subs``              hash    ``<sub>`` to subscription id                             never
``ev``                zset    events by when they were recorded                        renewed
``n:<name>``          zset    events of one name, likewise                             renewed
``g:<sub>``           zset    runs held back while the subscription is paused          when empty
``paused``            hash    paused subscriptions, and since when                     when empty
``wp:<name>``         hash    which paths waits for this event look at, how many       when empty
``wv:<name>:<hash>``  set     waits for this event with equal values at these paths    when empty
``untold``            zset    ended runs whose ``on_failure`` is still to be recorded  when empty
``news``              zset    events that other shards are still to be told of         when empty
``shards``            string  in how many shards the ledger is kept, if not one        never
``le:<run>``          list    keys of the events that a run has collected              once final
``l:<gate>``          hash    a gate: short fields, see ``unpacking.py``               when idle
``lp:<gate>``         zset    runs that have a place there, by since when              when empty
``lr:<gate>``         zset    lanes in which runs wait there, by their turns           when empty
``lq:<lane>``         zset    those runs, by priority and number                       when empty
``lanes``             hash    at which gate a lane waits                               when empty
``lx:<gate>``         list    when a rate limit has let runs through                   with it
``li:<gate>``         string  until when a value of an idempotency counts, for whom    then
``lc:<gate>``         string  the run that collects events                             when it ends
``busy``              string  until when keepers look more often                         soon
``gates``             zset    gates where runs wait for the time, by when to look      when empty
``limits``            zset    gates by when they were used last                        swept
``tuned``             hash    limits that were changed, and their numbers              never
``lseq``              string  how many runs were recorded that limits hold for         never
====================  ======  =======================================================  ===========
"""

from __future__ import annotations

from hashlib import sha1


def sub_hash(subscription: str) -> str:
    """Return what a subscription id is called in keys."""
    return sha1(subscription.encode(), usedforsecurity=False).hexdigest()[:12]


class Keys:
    """The keys under one prefix.

    Args:
        prefix: the setting ``fanout_store_prefix``, or the tag of a shard.

    Attributes:
        root: the prefix with its hash tag.
        where: the key of the gates at which lanes wait.
        limits: the key of the gates that were used of late.
        tuned: the key of the limits that were changed.
        news: the key of the events that other shards are still to be told of.
        shards: the key of the number of shards.
        due: the key of all timers.
        subscriptions: the key of the subscription ids by their hash.
        paused: the key of the paused subscriptions.
        untold: the key of the ended runs whose follow-up is still to be recorded.
    """

    def __init__(self, prefix: str) -> None:
        self.root = f"{{{prefix}}}"
        self.where = f"{self.root}:lanes"
        self.limits = f"{self.root}:limits"
        self.tuned = f"{self.root}:tuned"
        self.news = f"{self.root}:news"
        self.shards = f"{self.root}:shards"
        self.due = f"{self.root}:due"
        self.subscriptions = f"{self.root}:subs"
        self.paused = f"{self.root}:paused"
        self.untold = f"{self.root}:untold"

    def run(self, run_id: str) -> str:
        """Return the key of a run's record."""
        return f"{self.root}:r:{run_id}"

    def data(self, run_id: str) -> str:
        """Return the key of a run's checkpoints, result and the like."""
        return f"{self.root}:d:{run_id}"

    def event(self, key: str) -> str:
        """Return the key of an event."""
        return f"{self.root}:e:{key}"

    def text(self, key: str) -> str:
        """Return the key of what an event says."""
        return f"{self.root}:t:{key}"

    def state(self, state: str) -> str:
        """Return the key of the runs in a state."""
        return f"{self.root}:s:{state}"

    def subscription(self, subscription: str) -> str:
        """Return the key of the runs of a subscription."""
        return f"{self.root}:u:{sub_hash(subscription)}"

    def events(self, name: str | None = None) -> str:
        """Return the key of all events, or of those of one name."""
        return f"{self.root}:ev" if name is None else f"{self.root}:n:{name}"

    def waits(self, name: str) -> str:
        """Return the key that exists while anybody waits for events of a name."""
        return f"{self.root}:wp:{name}"

    def collected(self, run_id: str) -> str:
        """Return the key of the events that a run has collected."""
        return f"{self.root}:le:{run_id}"

    def gate(self, gate: str) -> str:
        """Return the key of a gate."""
        return f"{self.root}:l:{gate}"

    def holders(self, gate: str) -> str:
        """Return the key of the runs that have a place at a gate."""
        return f"{self.root}:lp:{gate}"

    def lanes(self, gate: str) -> str:
        """Return the key of the lanes in which runs wait at a gate."""
        return f"{self.root}:lr:{gate}"

    def lane(self, lane: str) -> str:
        """Return the key of the runs that wait in a lane."""
        return f"{self.root}:lq:{lane}"

    def passed(self, gate: str) -> str:
        """Return the key of when a rate limit has let runs through."""
        return f"{self.root}:lx:{gate}"

    def collects(self, gate: str) -> str:
        """Return the key of the run that collects events."""
        return f"{self.root}:lc:{gate}"
