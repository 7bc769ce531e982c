"""Every ``fanout_*`` setting of a Celery app, with its default and its meaning.

They are ordinary Celery settings: ``app.conf.fanout_source = "/shop"``, ``Celery(fanout_source=)``,
or ``CELERY_FANOUT_SOURCE`` in Django settings read with ``namespace="CELERY"``. Durations are
seconds, sizes are bytes.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from celery_fanout.exceptions import InvalidSetting, UnknownSetting
from celery_fanout.exceptions.describing import nearest
from celery_fanout.model.ids import PLACES

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery import Celery

PREFIX = "fanout_"
DAY = 86_400.0

#: The version of Celery's message protocol that has headers.
PROTOCOL = 2

_PREFIX = re.compile(r"[A-Za-z0-9._:-]{1,50}")

_SECONDS = (
    "checkpoint_expires",
    "lease",
    "dedup_window",
    "success_retention",
    "failure_retention",
    "event_retention",
    "publish_timeout",
    "outbox_retention",
)

_CHOICES: dict[str, tuple[str | bool, ...]] = {
    "delivery": ("on_commit", "outbox", "now"),
    "on_publish_error": ("log", "outbox", "raise"),
    "results": ("ledger", "celery"),
    "keeper": (True, False),
    "outbox_require_atomic": (True, False),
}


@dataclass(frozen=True)
class Settings:
    """The settings of one app, read once and validated.

    Attributes:
        source: CloudEvents ``source`` of events emitted by this app, a URI reference. Default:
            ``"/"`` and the app's main name.
        store_url: where events, runs and step results are kept. ``None``: the app's result backend,
            as a ledger (level 2) if that is Redis; ``"backend"``: the result backend, for step
            results only (level 1); ``"memory://"``: a ledger for this process only; or the URL of
            a Redis or Valkey server, Sentinel group or cluster (level 2), or of another Celery
            result backend (level 1).
        store_prefix: what all keys of the ledger begin with, in braces. Default: ``"fanout"``.
        shards: over how many parts the ledger spreads its events, 1 to 64; more than one is for
            Redis Cluster, whose nodes then share the work. Default: 1.
        checkpoint_expires: level 1: how long a step's result is kept, in seconds, at least.
            Default: 7 days.
        lease: how long a worker holds a run without a heartbeat, in seconds; a run whose worker
            died goes on elsewhere after that. Default: 30.
        max_crashes: after so many deaths of its worker a run is a dead letter. Default: 3.
        dedup_window: how long the same event id is the same event, in seconds. Default: 1 day.
        success_retention: how long succeeded and cancelled runs are kept, in seconds. Default: 1
            day.
        failure_retention: how long dead letters are kept, in seconds. Default: 7 days.
        event_retention: how long events are kept, in seconds; at least as long as their runs and
            as ``dedup_window``. Default: 7 days.
        results: who keeps what runs return: ``"ledger"``, or ``"celery"`` for the result backend
            too, as for any task. Default: ``"ledger"``.
        keeper: whether workers look for what is due; if not, run ``celery fanout keeper``. Their
            heartbeat goes on all the same. Default: ``True``.
        queue: the queue of the fast workers (``celery fanout worker``), where runs go whose task
            has no route of its own. Default: none.
        max_depth: how many events may cause one another, which ends loops. Default: 50.
        max_event_size: the largest event data, in bytes of JSON. Default: 256 KiB.
        max_step_size: the largest step result, in bytes of JSON. Default: 1 MiB.
        publish_timeout: how long ``emit`` may block when the broker is down, in seconds. Default:
            5.
        redact: what is done to data before people see them, on the command line and in Django's
            admin: a function of an event's name and data, or its dotted path, that returns what is
            shown. Default: values whose keys sound like secrets are left out.
        delivery: Django: when events are published: ``"on_commit"``, after the transaction that
            emits them; ``"outbox"``, by ``manage.py fanout_relay`` from a table that is written in
            that transaction; ``"now"``. Default: ``"on_commit"``.
        on_publish_error: Django: what becomes of an event that cannot be published after the
            commit: ``"log"``; ``"outbox"``, which keeps it for the relay; ``"raise"``, which raises
            into whoever committed. Default: ``"log"``.
        outbox_database: Django: alias of the database that has the outbox, where ``using=`` names
            none. Default: ``"default"``.
        outbox_require_atomic: Django: whether an event for the outbox must be emitted inside a
            transaction. Default: ``True``.
        outbox_max_attempts: Django: after so many failures an event of the outbox is a dead
            row; a broker or ledger that is away does not count. Default: 5.
        outbox_retention: Django: how long dead rows of the outbox are kept, in seconds. Default: 30
            days.
    """

    source: str = "/"
    store_url: str | None = None
    store_prefix: str = "fanout"
    shards: int = 1
    checkpoint_expires: float = 7 * DAY
    lease: float = 30.0
    max_crashes: int = 3
    dedup_window: float = DAY
    success_retention: float = DAY
    failure_retention: float = 7 * DAY
    event_retention: float = 7 * DAY
    results: str = "ledger"
    keeper: bool = True
    queue: str | None = None
    max_depth: int = 50
    max_event_size: int = 256 * 1024
    max_step_size: int = 1024 * 1024
    publish_timeout: float = 5.0
    redact: Callable[[str, Any], Any] | str | None = None
    delivery: str = "on_commit"
    on_publish_error: str = "log"
    outbox_database: str = "default"
    outbox_require_atomic: bool = True
    outbox_max_attempts: int = 5
    outbox_retention: float = 30 * DAY

    @classmethod
    def from_app(cls, app: Celery) -> Settings:
        """Read and validate the settings of an app.

        Raises:
            UnknownSetting: if the app has a ``fanout_*`` setting that does not exist.
            InvalidSetting: if a value cannot be used, or all are in one dict.
        """
        known = {field.name for field in fields(cls)}
        for key in _given(app):
            if key not in known:
                near = nearest(key, known)
                raise UnknownSetting(PREFIX + key, near and PREFIX + near)
        whole = app.conf.get(PREFIX.rstrip("_"))
        if whole is not None:  # CELERY_FANOUT = {...} would do nothing
            rule = f"left out: each setting is one of its own, such as {PREFIX}source"
            raise InvalidSetting(PREFIX.rstrip("_"), f"a {type(whole).__name__}", rule)
        if app.conf.task_protocol != PROTOCOL:
            # version 1 has no headers, so a worker could not tell a run from an ordinary task
            raise InvalidSetting("task_protocol", str(app.conf.task_protocol), "2")
        values: dict[str, Any] = {"source": f"/{app.main or 'celery'}"}
        for key in known:
            value = app.conf.get(PREFIX + key)
            if value is not None:
                values[key] = value
        settings = cls(**values)
        settings.validate()
        return settings

    def validate(self) -> None:
        """Check every value.

        Raises:
            InvalidSetting: for the first value that cannot be used.
        """
        for name in _SECONDS:
            _check(self, name, (int, float), "a number of seconds greater than 0")
        for name in ("max_event_size", "max_step_size"):
            _check(self, name, (int,), "a number of bytes greater than 0")
        for name in ("max_crashes", "max_depth", "outbox_max_attempts"):
            _check(self, name, (int,), "a whole number greater than 0")
        _check(self, "shards", (int,), f"a whole number from 1 to {PLACES}", PLACES)
        for name, choices in _CHOICES.items():
            _check_choice(self, name, choices)
        values: Any = self  # not everybody runs a type checker
        is_path = isinstance(values.redact, str) and re.fullmatch(r"\w+([.:]\w+)+", values.redact)
        is_redact = values.redact is None or is_path or callable(values.redact)
        _require(self, "redact", is_redact, "a function, or the dotted path of one")
        database, source, url = values.outbox_database, values.source, values.store_url
        _require(self, "outbox_database", _is_text(database), "the alias of a database")
        _require(self, "source", _is_text(source), "a URI reference")
        is_url = url is None or isinstance(url, str)
        _require(self, "store_url", is_url, 'a URL, "backend" or "memory://"')
        is_queue = values.queue is None or _is_text(values.queue)
        _require(self, "queue", is_queue, "the name of a queue")
        prefix = values.store_prefix
        is_prefix = isinstance(prefix, str) and _PREFIX.fullmatch(prefix)
        _require(self, "store_prefix", is_prefix, "1 to 50 letters, digits, '.', '_', ':' and '-'")


def _require(settings: Settings, name: str, holds: object, rule: str) -> None:
    if not holds:
        raise InvalidSetting(PREFIX + name, repr(getattr(settings, name)), rule)


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value)


def _check(
    settings: Settings, name: str, types: tuple[type, ...], rule: str, most: float = math.inf
) -> None:
    value: Any = getattr(settings, name)
    is_number = isinstance(value, types) and not isinstance(value, bool)
    _require(settings, name, is_number and 0 < value < math.inf and value <= most, rule)


def _check_choice(settings: Settings, name: str, choices: tuple[str | bool, ...]) -> None:
    value: Any = getattr(settings, name)
    is_choice = any(value == choice and type(value) is type(choice) for choice in choices)
    texts = [f'"{choice}"' if isinstance(choice, str) else str(choice) for choice in choices]
    _require(settings, name, is_choice, f"{', '.join(texts[:-1])} or {texts[-1]}")


def _given(app: Any) -> set[str]:
    """Return the ``fanout_*`` keys that the user set, in whatever form, without the prefix."""
    names: set[str] = set()
    namespace = str(app.namespace or "").rstrip("_")  # Celery takes it with and without
    prefixes = (PREFIX, f"{namespace}_{PREFIX}".lower())
    for key in app.conf:
        lowered = str(key).lower()
        for prefix in prefixes:
            if lowered.startswith(prefix):
                names.add(lowered[len(prefix) :])
    return names
