"""Which ledger an app has, and how it connects. Nothing connects here."""

import ssl
import time

import pytest
from celery import Celery
from redis.credentials import UsernamePasswordCredentialProvider

from celery_fanout.exceptions import InvalidSetting, StoreUnavailable
from celery_fanout.model.settings import Settings
from celery_fanout.stores.choosing import choose_ledger, rules_of
from celery_fanout.stores.memory.ledger import MemoryLedger
from celery_fanout.stores.records import LedgerRules
from celery_fanout.stores.redis import RedisLedger
from celery_fanout.stores.redis.shards.ledger import ShardedLedger
from tests.processes import free_port

PROVIDER = "redis.credentials:UsernamePasswordCredentialProvider"


def chosen(backend=None, broker="memory://", fanout=None, **conf):
    app = Celery("shop", broker=broker, backend=backend, set_as_current=False)
    app.conf.update(conf)
    app.conf.update({f"fanout_{key}": value for key, value in (fanout or {}).items()})
    return choose_ledger(app, Settings.from_app(app), time.time)


def connection(ledger):
    """Return a connection that was not opened yet, and what it is made with."""
    pool = ledger.client.connection_pool
    return pool.make_connection(), pool.connection_kwargs


def place(backend, **conf):
    """Return the kind of a connection, and where it leads."""
    made, options = connection(chosen(backend, **conf))
    keys = ("host", "port", "db", "path", "username", "password")
    return type(made).__name__, {key: options[key] for key in keys if key in options}


# -- which -------------------------------------------------------------------------------------

REDIS = ["redis://h:1/0", "rediss://h:1/0", "redis+socket:///s.sock", "redis"]


@pytest.mark.parametrize("backend", REDIS)
def test_a_redis_result_backend_is_the_ledger(backend):
    assert isinstance(chosen(backend), RedisLedger)


@pytest.mark.parametrize(
    "backend",
    [None, "rpc://", "cache+memory://", "db+sqlite://", "file:///tmp", "django-db", "disabled://"],
)
def test_any_other_result_backend_is_level_1(backend):
    assert chosen(backend) is None


def test_a_result_backend_that_is_no_text_is_level_1():
    from celery.backends.cache import CacheBackend

    assert chosen(CacheBackend) is None


@pytest.mark.parametrize("backend", [*REDIS, "rpc://", None])
def test_level_1_by_choice(backend):
    assert chosen(backend, fanout={"store_url": "backend"}) is None


@pytest.mark.parametrize("backend", [*REDIS, "rpc://", None])
def test_in_memory(backend):
    found = chosen(backend, fanout={"store_url": "memory://", "lease": 7})
    assert isinstance(found, MemoryLedger)
    assert found.rules.lease == 7


@pytest.mark.parametrize(
    "url",
    [
        "redis://h:1/0",
        "rediss://h:1/0",
        "unix:///s.sock",
        "redis+socket:///s.sock",
        "socket:///s.sock",
        "valkey://h:1/0",
        "valkeys://h:1/0",
        "sentinel://h:1/0",
        "redis+cluster://h:1",
        "rediss+cluster://h:1",
    ],
)
def test_a_redis_of_its_own(url):
    found = chosen("rpc://", fanout={"store_url": url})
    assert isinstance(found, RedisLedger)
    assert found.url == url


@pytest.mark.parametrize("url", ["db+sqlite://", "cache+memory://", "file:///tmp"])
def test_another_result_backend_of_its_own_is_level_1(url):
    assert chosen("redis://h:1/0", fanout={"store_url": url}) is None


# -- by which rules ----------------------------------------------------------------------------


def test_the_rules_are_the_settings():
    settings = Settings(
        lease=20,
        dedup_window=1,
        success_retention=2,
        failure_retention=3,
        event_retention=4,
        max_crashes=5,
    )
    assert rules_of(settings) == LedgerRules(20, 1, 2, 3, 4, 5, grace=20, republish=900)
    assert rules_of(Settings(lease=60)).grace == 30


@pytest.mark.parametrize(
    ("broker", "republish"),
    [("redis://h:1/0", 3600), ("amqp://h", 900), ("memory://", 900)],
)
def test_on_redis_lost_messages_are_missed_sooner(broker, republish):
    assert chosen("redis://h:1/0", broker).rules.republish == republish


def test_shards():
    found = chosen("redis://h:1/0", fanout={"shards": 6, "store_prefix": "shop"})
    assert isinstance(found, ShardedLedger)
    assert (found.shards, len(found.parts)) == (6, 6)
    assert [part._keys.root[:6] for part in found.parts] == ["{shop}", *["{shop#"] * 5]
    assert chosen("redis://h:1/0", fanout={"shards": 1}).shards == 1
    # one process has nothing to share
    assert chosen(fanout={"shards": 6, "store_url": "memory://"}).shards == 1


def test_the_prefix():
    found = chosen(
        "redis://h:1/0",
        fanout={"store_prefix": "shop"},
        result_backend_transport_options={"global_keyprefix": "other:"},
    )
    assert found._keys.root == "{shop}"
    connection(found)  # redis-py knows no such option


# -- where, as Celery reads the same settings --------------------------------------------------


@pytest.mark.parametrize(
    ("backend", "kind", "where"),
    [
        ("redis://h:1/3", "Connection", {"host": "h", "port": 1, "db": 3}),
        (
            "redis://u:p%2Fw@h:1/0",
            "Connection",
            {"host": "h", "port": 1, "db": 0, "username": "u", "password": "p/w"},
        ),
        (
            "redis+socket:///run/s.sock?virtual_host=2",
            "UnixDomainSocketConnection",
            {"path": "/run/s.sock", "db": 2},
        ),
        ("redis", "Connection", {"host": "localhost", "port": 6379, "db": 0}),
    ],
)
def test_by_the_url(backend, kind, where):
    assert place(backend) == (kind, where)


def test_by_a_name_and_celerys_settings():
    settings = {"redis_host": "h", "redis_port": 1, "redis_db": 2, "redis_password": "p"}
    assert place("redis", **settings) == (
        "Connection",
        {"host": "h", "port": 1, "db": 2, "password": "p"},
    )


def test_with_the_credentials_of_celerys_settings():
    credentials = {"redis_username": "u", "redis_password": "p"}
    here = {"host": "h", "port": 1, "db": 0}
    assert place("redis://h:1/0", **credentials)[1] == {**here, "username": "u", "password": "p"}
    assert place("redis://:own@h:1/0", redis_password="p")[1] == {**here, "password": "own"}
    # they are the result backend's, and nobody else's
    assert place("rpc://", **credentials, fanout={"store_url": "redis://h:1/0"})[1] == here


@pytest.mark.parametrize(
    ("backend", "conf"),
    [
        (f"redis://h:1/0?credential_provider={PROVIDER}", {"redis_password": "p"}),
        ("redis://h:1/0", {"redis_backend_credential_provider": PROVIDER, "redis_password": "p"}),
        (
            "redis://h:1/0",
            {"redis_backend_credential_provider": UsernamePasswordCredentialProvider("u", "p")},
        ),
    ],
)
def test_with_a_provider_of_credentials(backend, conf):
    made, _ = connection(chosen(backend, **conf))
    assert isinstance(made.credential_provider, UsernamePasswordCredentialProvider)


@pytest.mark.parametrize(
    ("word", "reqs"),
    [
        ("CERT_NONE", ssl.CERT_NONE),
        ("none", ssl.CERT_NONE),
        ("CERT_OPTIONAL", ssl.CERT_OPTIONAL),
        ("optional", ssl.CERT_OPTIONAL),
        ("CERT_REQUIRED", ssl.CERT_REQUIRED),
        ("required", ssl.CERT_REQUIRED),
    ],
)
def test_with_tls_by_the_url(word, reqs):
    url = f"rediss://h:1/0?ssl_cert_reqs={word}&ssl_ca_certs=%2Fca.pem"
    for found in (chosen(url), chosen("rpc://", fanout={"store_url": url})):
        made, _ = connection(found)
        assert (type(made).__name__, made.cert_reqs, made.ca_certs) == (
            "SSLConnection",
            reqs,
            "/ca.pem",
        )


@pytest.mark.parametrize("url", ["redis://h:1/0", "rediss://h:1/0"])
@pytest.mark.parametrize("reqs", ["CERT_NONE", ssl.CERT_NONE])
def test_with_tls_by_celerys_setting(url, reqs):
    made, _ = connection(chosen(url, redis_backend_use_ssl={"ssl_cert_reqs": reqs}))
    assert (type(made).__name__, made.cert_reqs) == ("SSLConnection", ssl.CERT_NONE)


def test_the_results_tls_is_not_that_of_a_redis_of_its_own():
    tls = {"ssl_cert_reqs": ssl.CERT_NONE}
    found = chosen("rpc://", redis_backend_use_ssl=tls, fanout={"store_url": "redis://h:1/0"})
    assert type(connection(found)[0]).__name__ == "Connection"


# -- Sentinel and Cluster ----------------------------------------------------------------------

MASTER = {"master_name": "mymaster"}


@pytest.mark.parametrize("url", ["sentinel://a:1;sentinel://b/2", "sentinel://a:1;b/2"])
def test_sentinels(url):
    made, options = connection(chosen(url, result_backend_transport_options=MASTER))
    assert type(made).__name__ == "SentinelManagedConnection"
    assert (made.connection_pool.service_name, options["db"]) == ("mymaster", 2)
    manager = made.connection_pool.sentinel_manager
    where = [s.connection_pool.connection_kwargs for s in manager.sentinels]
    assert [(at["host"], at["port"]) for at in where] == [("a", 1), ("b", 26379)]


def test_sentinels_with_credentials_and_tls():
    made, options = connection(
        chosen(
            "sentinel://u:p%2Fw@a:1/0",
            result_backend_transport_options={**MASTER, "sentinel_kwargs": {"password": "other"}},
            redis_backend_use_ssl={"ssl_cert_reqs": "CERT_NONE"},
        )
    )
    assert type(made).__name__ == "SentinelManagedSSLConnection"
    assert (options["username"], options["password"]) == ("u", "p/w")
    (sentinel,) = made.connection_pool.sentinel_manager.sentinels
    assert sentinel.connection_pool.connection_kwargs["password"] == "other"


def test_sentinels_without_the_name_of_a_master():
    with pytest.raises(InvalidSetting) as caught:
        connection(chosen("sentinel://a:1/0"))
    assert str(caught.value) == (
        "result_backend_transport_options is without master_name. It must be given for "
        'sentinel:// such as {"master_name": "mymaster"}.'
    )


def test_a_cluster_that_is_not_there():
    port = free_port()
    found = chosen("rpc://", fanout={"store_url": f"redis+cluster://127.0.0.1:{port}"})
    with pytest.raises(StoreUnavailable) as caught:
        found.time()
    assert str(caught.value).startswith(
        "The Redis ledger cannot be reached (RedisClusterException: Redis Cluster cannot be "
        "connected. Please provide at least one reachable node: "
    )
