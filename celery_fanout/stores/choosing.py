"""Which stores an app has, by its settings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from celery.utils.imports import symbol_by_name

from celery_fanout.stores.backend import BackendStore
from celery_fanout.stores.records import LedgerRules
from celery_fanout.stores.redis_urls import is_redis_url

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery import Celery

    from celery_fanout.model.settings import Settings
    from celery_fanout.stores.checkpoints import CheckpointStore
    from celery_fanout.stores.ledger import Ledger

#: After how long a message that nobody took is sent again, in seconds. On Redis it is missed long
#: before, when a younger one has become the oldest in its queue.
REPUBLISH, REPUBLISH_REDIS = 900.0, 3600.0


def rules_of(settings: Settings, republish: float = REPUBLISH) -> LedgerRules:
    """Return what a ledger's decisions follow."""
    return LedgerRules(
        lease=settings.lease,
        dedup_window=settings.dedup_window,
        success_retention=settings.success_retention,
        failure_retention=settings.failure_retention,
        event_retention=settings.event_retention,
        max_crashes=settings.max_crashes,
        grace=min(settings.lease, 30.0),
        republish=republish,
    )


def choose_checkpoint_store(
    app: Celery, settings: Settings, in_memory: CheckpointStore
) -> CheckpointStore:
    """Return where the step results of an app are kept on level 1.

    Args:
        app: the Celery app.
        settings: its settings.
        in_memory: the app's store in memory, for ``fanout_store_url = "memory://"``.

    Raises:
        StoreUnsupported: if the result backend cannot be read back.
    """
    return in_memory if settings.store_url == "memory://" else BackendStore(app, settings)


class _LazyStore:
    def __init__(self, find: Callable[[], CheckpointStore]) -> None:
        self._find = find

    def __getattr__(self, name: str) -> Any:
        return getattr(self._find(), name)


def lazy_store(find: Callable[[], CheckpointStore]) -> CheckpointStore:
    """Return a store that is opened by its first use, so that runs without steps need none.

    Args:
        find: returns the store, the same each time.
    """
    return cast("CheckpointStore", _LazyStore(find))


def choose_ledger(app: Celery, settings: Settings, clock: Callable[[], float]) -> Ledger | None:
    """Return the ledger of an app; ``None`` on level 1.

    Args:
        app: the Celery app.
        settings: its settings.
        clock: the time, for a ledger in memory.
    """
    chosen: Any = settings.store_url
    if chosen == "backend":
        return None
    if chosen == "memory://":
        from celery_fanout.stores.memory.ledger import MemoryLedger

        return MemoryLedger(rules_of(settings), clock)
    if chosen is None:
        chosen = app.backend_cls or app.conf.result_backend
    if not isinstance(chosen, str) or not is_redis_url(chosen):
        return None
    from celery_fanout.stores.redis import RedisLedger

    conf: Any = app.conf
    broker: str = app.connection_for_write().transport.driver_type
    republish = REPUBLISH_REDIS if broker == "redis" else REPUBLISH
    options: dict[str, Any] = dict(conf.result_backend_transport_options or {})
    if settings.store_url is None:
        options = {**_of_the_backend(conf), **options}
        if "://" not in chosen:  # "redis" alone
            host, port, db = conf.redis_host, conf.redis_port, conf.redis_db
            chosen = f"{chosen}://{host or 'localhost'}:{port or 6379}/{db or 0}"
    # the app's own prefix would hide the ledger's keys from other apps: it has one of its own
    options.pop("global_keyprefix", None)
    rules = rules_of(settings, republish)
    more: dict[str, Any] = {
        "prefix": settings.store_prefix,
        "options": options,
        "timeout": settings.publish_timeout / 2,
    }
    if settings.shards > 1:
        from celery_fanout.stores.redis.shards.ledger import ShardedLedger

        return ShardedLedger(chosen, rules, settings.shards, **more)
    return RedisLedger(chosen, rules, **more)


def _of_the_backend(conf: Any) -> dict[str, Any]:
    """Return what settings of Celery's say about the result backend apart from its URL."""
    options: dict[str, Any] = {}
    provider: Any = conf.get("redis_backend_credential_provider")
    if provider:
        options["credential_provider"] = (
            symbol_by_name(provider)() if isinstance(provider, str) else provider
        )
    else:
        credentials = {key: conf.get(f"redis_{key}") for key in ("username", "password")}
        options.update({key: value for key, value in credentials.items() if value})
    ssl: Any = conf.redis_backend_use_ssl
    if hasattr(ssl, "items"):
        options.update(ssl, ssl=True)
    return options
