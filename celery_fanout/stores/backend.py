"""Checkpoints in a Celery result backend, through its public interface.

Key-value backends are asked with ``get`` and ``set``; all others with ``store_result`` and
``get_task_meta``. Keys are ``uuid5``, because the SQLAlchemy backend caps a task id at 155
characters.
"""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Any

from celery.app import backends
from celery.backends.base import BaseKeyValueStoreBackend, DisabledBackend
from celery.backends.cache import CacheBackend
from celery.states import SUCCESS

from celery_fanout.exceptions import FanoutError, StoreUnavailable, StoreUnsupported
from celery_fanout.ids import child_id

if TYPE_CHECKING:
    from collections.abc import Sequence

    from celery import Celery

    from celery_fanout.settings import Settings
    from celery_fanout.stores import StepKey

__all__ = ["BackendStore"]

#: State of records that will still change. SQL backends keep the first SUCCESS, and the states
#: that Celery reads as exceptions would be decoded as such.
PENDING_STATE = "FANOUT"

#: memcached reads a longer expiry as an absolute time in 1970 (its protocol.txt), so the item
#: would be gone at once.
MEMCACHED_MAX_EXPIRY = 30 * 86_400

_REMEDY = (
    'Set result_backend, or fanout_store_url, to one that can be read back, such as "redis://", '
    '"db+postgresql://" or "django-db".'
)


class BackendStore:
    """A store on any Celery result backend that can be read back.

    The backend is an instance of its own beside the app's, so that checkpoints have an expiry of
    their own where the backend lets values expire.

    Args:
        app: the Celery app.
        settings: its settings.

    Raises:
        StoreUnsupported: for ``rpc://`` and for an app without a result backend.
    """

    def __init__(self, app: Celery, settings: Settings) -> None:
        self._app = app
        chosen = settings.store_url
        if chosen is None or chosen == "backend":
            chosen = app.backend_cls or app.conf.result_backend
        self._cls, self._url = backends.by_url(chosen, app.loader)
        self._expires = settings.checkpoint_expires
        self._local = threading.local()
        self._shared: tuple[int, Any] | None = None
        self._lock = threading.Lock()
        self._refuse_unreadable()
        self.name = f"The result backend {self._cls.__name__}"
        self._is_kv = issubclass(self._cls, BaseKeyValueStoreBackend)
        self._is_cache = issubclass(self._cls, CacheBackend)
        self._is_redis = any(c.__module__ == "celery.backends.redis" for c in self._cls.__mro__)
        if self._is_cache:
            self._expires = min(self._expires, MEMCACHED_MAX_EXPIRY)
        self.supports_extend = self._is_redis or self._is_cache
        if self.supports_extend:
            self.keeps: float | None = self._expires
            self.keeps_setting = "fanout_checkpoint_expires"
        else:
            # rows and files are dropped by celery.backend_cleanup, with the app's own expiry
            self.keeps = self._seconds(app.conf.result_expires)
            self.keeps_setting = "result_expires"

    @staticmethod
    def _seconds(expires: Any) -> float | None:
        if not expires:
            return None
        return float(getattr(expires, "total_seconds", lambda: expires)())

    def _refuse_unreadable(self) -> None:
        names = {c.__name__ for c in self._cls.__mro__}
        if issubclass(self._cls, DisabledBackend):
            raise StoreUnsupported("An app without a result backend", "steps", _REMEDY)
        if "RPCBackend" in names:
            raise StoreUnsupported("The result backend rpc://", "steps", _REMEDY)

    def _backend(self) -> Any:
        """Return the backend of this process and thread.

        Redis clients may be shared by threads, and one pool is enough; other clients, such as
        pymemcache's, may not. A forked process opens its own.
        """
        pid = os.getpid()
        if self._is_redis:
            if self._shared is None or self._shared[0] != pid:
                with self._lock:
                    if self._shared is None or self._shared[0] != pid:
                        self._shared = (pid, self._open())
            return self._shared[1]
        if getattr(self._local, "pid", None) != pid:
            self._local.backend, self._local.pid = self._open(), pid
        return self._local.backend

    def _open(self) -> Any:
        return self._cls(app=self._app, url=self._url, expires=int(self._expires))

    def get(self, run_id: str, key: StepKey) -> str | None:
        """Return the text stored under a key, or ``None``."""
        name = child_id(run_id, *key)
        return self._text(self._ask(self._read, name))

    def put(self, run_id: str, key: StepKey, text: str, *, final: bool) -> None:
        """Store a text under a key."""
        name = child_id(run_id, *key)
        self._ask(self._write, name, text, final)
        if self._is_cache and self.get(run_id, key) != text:
            # its client does not wait for the server's answer, which refuses large items
            raise StoreUnsupported(
                self.name, f"a step result of {len(text):,} characters", "Store a reference to it."
            )

    def extend(self, run_id: str, keys: Sequence[StepKey], seconds: float) -> None:
        """Keep what is stored under these keys for at least ``seconds`` from now."""
        if self._is_cache:
            seconds = min(seconds, MEMCACHED_MAX_EXPIRY)
        for key in keys if self.supports_extend else ():
            self._ask(self._expire, child_id(run_id, *key), int(seconds))

    def _ask(self, call: Any, *args: Any) -> Any:
        try:
            return call(self._backend(), *args)
        except FanoutError:
            raise
        except Exception as exc:
            # each backend raises errors of its own library; Celery names no common base for them
            raise StoreUnavailable(self.name, f"{type(exc).__name__}: {exc}") from exc

    def _read(self, backend: Any, name: str) -> Any:
        if self._is_kv:
            return backend.get(backend.get_key_for_task(name))
        return backend.get_task_meta(name, cache=False)["result"]

    def _write(self, backend: Any, name: str, text: str, final: bool) -> None:
        if self._is_kv:
            backend.set(backend.get_key_for_task(name), text)
        else:
            backend.store_result(name, text, SUCCESS if final else PENDING_STATE)

    def _expire(self, backend: Any, name: str, seconds: int) -> None:
        backend.expire(backend.get_key_for_task(name), seconds)

    @staticmethod
    def _text(value: Any) -> str | None:
        if value is None:
            return None
        return value.decode() if isinstance(value, bytes) else str(value)
