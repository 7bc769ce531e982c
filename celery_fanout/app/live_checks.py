"""What the broker and the store of an app say about themselves, with what to do about it."""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING, Any

from kombu.utils.url import url_to_parts

from celery_fanout.app.checks import finding, store_url
from celery_fanout.exceptions import ConfigurationError, FanoutError, StoreRefused
from celery_fanout.exceptions.describing import reason_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from celery_fanout.app.checks import Finding
    from celery_fanout.app.fanout import Fanout


def live_findings(fanout: Fanout) -> list[Finding]:
    """Connect to the broker and the store, and return what they say about themselves."""
    result: list[Finding] = []
    try:
        with fanout.app.connection_for_write() as connection:
            connection.ensure_connection(
                max_retries=1, timeout=ceil(fanout.settings.publish_timeout)
            )
    except Exception as exc:  # noqa: BLE001 - each transport has errors of its own
        result.append(
            finding(
                "fanout.E005",
                f"The broker cannot be reached: {exc}",
                "Start it, or correct broker_url.",
            )
        )
    try:
        if fanout.level2 is not None:
            fanout.ledger.time()
        else:
            fanout.store.get("00000000-0000-0000-0000-000000000000", ("check", 1))
    except ConfigurationError:
        return result  # said by findings()
    except StoreRefused as exc:
        result.append(
            finding("fanout.E006", str(exc), "Correct result_backend, or what it allows.")
        )
    except FanoutError as exc:
        result.append(finding("fanout.E006", str(exc), "Start it, or correct result_backend."))
    else:
        result.extend(_redis_findings(fanout))
        result.extend(_shards(fanout))
    return result


def _shards(fanout: Fanout) -> Iterator[Finding]:
    ledger: Any = fanout.level2 and fanout.ledger
    stored = ledger.stored_shards() if hasattr(ledger, "stored_shards") else 1
    if stored > 1 and ledger.shards % stored:
        yield finding(
            "fanout.E008",
            f"The ledger has {stored} shards, and fanout_shards is {ledger.shards} here: some are "
            "not looked after, and waits miss events.",
            f"Set fanout_shards to {stored}, or a multiple of it, in every process. For fewer, let "
            f"all runs end first, then delete the key {{{fanout.settings.store_prefix}}}:shards.",
        )


def _redis_findings(fanout: Fanout) -> Iterator[Finding]:
    url = store_url(fanout)
    if not url.startswith(("redis://", "rediss://")):
        return
    host = url_to_parts(url).hostname
    store: Any = fanout.store if fanout.level2 is None else fanout.ledger
    client = store.backend().client if fanout.level2 is None else store.client
    what = "step results" if fanout.level2 is None else "events, runs and step results"
    try:  # a replica, a full server and one whose disk is full answer what only reads
        client.set(f"{{{fanout.settings.store_prefix}}}:check", "1", px=1000)
    except Exception as exc:  # noqa: BLE001 - each client has errors of its own
        yield finding(
            "fanout.E010",
            f"Redis at {host} takes no {what}: {reason_of(exc)}",
            "Use the primary server, give it memory and disk, or allow this user to write.",
        )
    try:
        config: dict[str, Any] = {**client.config_get("maxmemory*"), **client.config_get("append*")}
    except Exception:  # noqa: BLE001 - managed Redis servers refuse CONFIG
        return
    policy = config.get("maxmemory-policy", "noeviction")
    if policy != "noeviction" and int(config.get("maxmemory", 0)):
        yield finding(
            "fanout.W012",
            f"Redis at {host} may evict {what} when it is full ({policy}).",
            "Set maxmemory-policy noeviction, so that a full Redis is noticed.",
        )
    if config.get("appendonly") != "yes":
        yield finding(
            "fanout.W013",
            f"Redis at {host} does not persist every write: after a crash finished steps may run "
            "again.",
            "Set appendonly yes.",
        )
