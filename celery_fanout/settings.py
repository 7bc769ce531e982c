"""Every ``fanout_*`` setting of a Celery app, with its default and its meaning.

They are ordinary Celery settings: ``app.conf.fanout_source = "/shop"``, ``Celery(fanout_source=)``,
or ``CELERY_FANOUT_SOURCE`` in Django settings read with ``namespace="CELERY"``. Durations are
seconds, sizes are bytes.
"""

from __future__ import annotations

import difflib
import math
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from celery_fanout.exceptions import InvalidSetting, UnknownSetting

if TYPE_CHECKING:
    from celery import Celery

__all__ = ["Settings"]

PREFIX = "fanout_"
DAY = 86_400.0

#: The version of Celery's message protocol that has headers.
PROTOCOL = 2


@dataclass(frozen=True)
class Settings:
    """The settings of one app, read once and validated.

    Attributes:
        source: CloudEvents ``source`` of events emitted by this app, a URI reference. Default:
            ``"/"`` and the app's main name.
        store_url: where step results are kept: ``None`` or ``"backend"`` for the app's result
            backend, ``"memory://"`` for this process only, or the URL of another Celery result
            backend.
        checkpoint_expires: how long a step's result is kept, in seconds, at least. Default: 7
            days.
        max_event_size: the largest event data, in bytes of JSON. Default: 256 KiB.
        max_step_size: the largest step result, in bytes of JSON. Default: 1 MiB.
        publish_timeout: how long ``emit`` may block when the broker is down, in seconds. Default:
            5.
    """

    source: str = "/"
    store_url: str | None = None
    checkpoint_expires: float = 7 * DAY
    max_event_size: int = 256 * 1024
    max_step_size: int = 1024 * 1024
    publish_timeout: float = 5.0

    @classmethod
    def from_app(cls, app: Celery) -> Settings:
        """Read and validate the settings of an app.

        Raises:
            UnknownSetting: if the app has a ``fanout_*`` setting that does not exist.
            InvalidSetting: if a value cannot be used.
        """
        known = {field.name for field in fields(cls)}
        for key in _given(app):
            if key not in known:
                near = difflib.get_close_matches(key, known, n=1)
                raise UnknownSetting(PREFIX + key, PREFIX + near[0] if near else "")
        if app.conf.task_protocol != PROTOCOL:
            # version 1 has no headers, so a worker could not tell a run from an ordinary task
            raise InvalidSetting("task_protocol", str(app.conf.task_protocol), "2")
        values: dict[str, Any] = {"source": f"/{app.main or 'celery'}"}
        for key in known:
            value = app.conf.get(PREFIX + key)
            if value is not None:
                values[key] = value
        found = cls(**values)
        found.validate()
        return found

    def validate(self) -> None:
        """Check every value.

        Raises:
            InvalidSetting: for the first value that cannot be used.
        """
        for name in ("checkpoint_expires", "publish_timeout"):
            _check(self, name, (int, float), "a number of seconds greater than 0")
        for name in ("max_event_size", "max_step_size"):
            _check(self, name, (int,), "a number of bytes greater than 0")
        given: Any = self  # not everybody runs a type checker
        if not isinstance(given.source, str) or not given.source:
            raise InvalidSetting(f"{PREFIX}source", repr(given.source), "a URI reference")
        if given.store_url is not None and not isinstance(given.store_url, str):
            raise InvalidSetting(
                f"{PREFIX}store_url", repr(given.store_url), 'a URL, "backend" or "memory://"'
            )


def _check(settings: Settings, name: str, types: tuple[type, ...], rule: str) -> None:
    value: Any = getattr(settings, name)
    is_number = isinstance(value, types) and not isinstance(value, bool)
    if not is_number or not 0 < value < math.inf:
        raise InvalidSetting(PREFIX + name, repr(value), rule)


def _given(app: Any) -> set[str]:
    """Return the ``fanout_*`` keys that the user set, in whatever form, without the prefix."""
    found: set[str] = set()
    namespace = str(app.namespace or "").rstrip("_")  # Celery takes it with and without
    prefixes = (PREFIX, f"{namespace}_{PREFIX}".lower())
    for key in app.conf:
        lowered = str(key).lower()
        for prefix in prefixes:
            if lowered.startswith(prefix):
                found.add(lowered[len(prefix) :])
    return found
