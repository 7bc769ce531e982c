"""Checkpoints in a Celery result backend, through its public interface.

Key-value backends are asked with ``get`` and ``set``; all others with ``store_result`` and
``get_task_meta``. Keys are ``uuid5``, because the SQLAlchemy backend caps a task id at 155
characters.
"""

from __future__ import annotations

import math
import os
import threading
from typing import TYPE_CHECKING, Any

from celery.app import backends
from celery.backends.base import BaseKeyValueStoreBackend, DisabledBackend
from celery.backends.cache import CacheBackend
from celery.exceptions import BackendError, ImproperlyConfigured
from celery.states import SUCCESS

from celery_fanout.exceptions import (
    INTERRUPTS,
    FanoutError,
    InvalidSetting,
    StoreUnavailable,
    StoreUnsupported,
)
from celery_fanout.exceptions.describing import causes_of, text_of
from celery_fanout.model.ids import child_id
from celery_fanout.model.locks import fork_safe_lock

if TYPE_CHECKING:
    from collections.abc import Sequence

    from celery import Celery

    from celery_fanout.model.settings import Settings
    from celery_fanout.stores.checkpoints import StepKey

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
        InvalidSetting: for a result backend that cannot be loaded.
    """

    def __init__(self, app: Celery, settings: Settings) -> None:
        self._app = app
        chosen = settings.store_url
        if chosen is None or chosen == "backend":
            chosen = app.backend_cls or app.conf.result_backend
        try:
            loaded: Any = backends.by_url(chosen, app.loader)
        except (ImportError, ImproperlyConfigured) as exc:
            raise InvalidSetting(
                "result_backend" if settings.store_url in (None, "backend") else "fanout_store_url",
                f"{str(chosen).partition(':')[0]!r}, which cannot be loaded ({exc})",
                "a result backend that is installed",
            ) from exc
        self._cls: Any = loaded[0]
        self._url: str = loaded[1]
        self._expires = settings.checkpoint_expires
        self._local = threading.local()
        self._shared: tuple[int, Any] | None = None
        self._lock = fork_safe_lock()
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
            self.longest: float | None = MEMCACHED_MAX_EXPIRY if self._is_cache else None
        else:
            # rows and files are dropped by celery.backend_cleanup, with the app's own expiry
            self.keeps = self._seconds(app.conf.result_expires)
            self.keeps_setting = "result_expires"
            self.longest = self.keeps

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

    def backend(self) -> Any:
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
        return self._cls(app=self._app, url=self._url, expires=math.ceil(self._expires))

    def get(self, run_id: str, key: StepKey) -> str | None:
        """Return the text stored under a key, or ``None``."""
        name = child_id(run_id, *key)
        return self._text(self._ask(self._read, name))

    def put(self, run_id: str, key: StepKey, text: str, *, final: bool) -> None:
        """Store a text under a key.

        Raises:
            StoreUnsupported: if the server refuses the text as too large.
        """
        name = child_id(run_id, *key)
        try:
            self._ask(self._write, name, text, final)
        except StoreUnavailable as exc:
            if _is_refusal(exc.__cause__):
                raise self._too_large(text) from exc
            raise
        # before Celery 5.7 the client does not wait for the answer, which refuses large items
        if self._is_cache and self.get(run_id, key) != text:
            raise self._too_large(text)

    def _too_large(self, text: str) -> StoreUnsupported:
        return StoreUnsupported(
            self.name,
            f"a step result of {len(text):,} characters",
            "Store it elsewhere and return a reference to it.",
        )

    def extend(self, run_id: str, keys: Sequence[StepKey], seconds: float) -> None:
        """Keep what is stored under these keys for at least ``seconds`` from now."""
        if self._is_cache:
            seconds = min(seconds, MEMCACHED_MAX_EXPIRY)
        for key in keys if self.supports_extend else ():
            self._ask(self._expire, child_id(run_id, *key), math.ceil(seconds))

    def _ask(self, call: Any, *args: Any) -> Any:
        try:
            return call(self.backend(), *args)
        except (FanoutError, *INTERRUPTS):
            raise
        except Exception as exc:
            # each backend raises errors of its own library; Celery names no common base for them
            raise StoreUnavailable(self.name, _reason(exc)) from exc

    def _read(self, backend: Any, name: str) -> Any:
        if self._is_kv:
            value = backend.get(backend.get_key_for_task(name))
            if value is None and self._is_cache:
                _check_alive(backend.client)
            return value
        return backend.get_task_meta(name, cache=False)["result"]

    def _write(self, backend: Any, name: str, text: str, final: bool) -> None:  # noqa: FBT001 - called by _ask
        if self._is_kv:
            # pymemcache takes texts of ASCII only; some of the others take no bytes
            value = text.encode() if self._is_cache else text
            backend.set(backend.get_key_for_task(name), value)
        else:
            backend.store_result(name, text, SUCCESS if final else PENDING_STATE)

    def _expire(self, backend: Any, name: str, seconds: int) -> None:
        backend.expire(backend.get_key_for_task(name), seconds)
        if self._is_cache:
            _check_alive(backend.client)

    @staticmethod
    def _text(value: Any) -> str | None:
        if value is None:
            return None
        return value.decode() if isinstance(value, bytes) else str(value)


def _reason(error: BaseException) -> str:
    """Name the error that a backend's own error stands for.

    The first line only: SQL libraries quote the statement's values below it, which are no
    business of a log's.
    """
    root = error.__cause__ if isinstance(error, BackendError) and error.__cause__ else error
    text = text_of(root).split("\n", 1)[0]
    return f"{type(root).__name__}: {text}" if text else type(root).__name__


def _check_alive(client: Any) -> None:
    """Raise if a memcached client hides that its server is gone.

    python-memcached, which Celery uses before 5.7, answers as if it knew no key, and asks the
    server again half a minute later; our next question is to reach it at once.
    """
    dead = [host for host in getattr(client, "servers", ()) if getattr(host, "deaduntil", 0)]
    for host in dead:
        host.deaduntil = 0
    if dead:
        raise ConnectionError(f"memcached does not answer: {', '.join(map(str, dead))}")


def _is_refusal(error: BaseException | None) -> bool:
    """Whether a server answered that it will never take this value.

    PEP 249 calls that a DataError, pylibmc TooBig; pymemcache has no class of its own for it.
    """
    for cause in causes_of(error):
        names = {kind.__name__ for kind in type(cause).__mro__}
        if names & {"DataError", "TooBig"} or "object too large" in str(cause):
            return True
    return False
