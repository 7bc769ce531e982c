"""Settings: every way to set them, their defaults, and what is refused."""

import dataclasses
import math
import sys
import types

import pytest
from celery import Celery
from django.conf import UserSettingsHolder, global_settings

from celery_fanout.exceptions import InvalidSetting, UnknownSetting
from celery_fanout.model.settings import Settings


@pytest.fixture
def app():
    return Celery("shop", set_as_current=False)


def test_defaults(app):
    assert Settings.from_app(app) == Settings(
        source="/shop",
        store_url=None,
        store_prefix="fanout",
        shards=1,
        checkpoint_expires=604_800.0,
        lease=30.0,
        max_crashes=3,
        dedup_window=86_400.0,
        success_retention=86_400.0,
        failure_retention=604_800.0,
        event_retention=604_800.0,
        results="ledger",
        keeper=True,
        queue=None,
        max_depth=50,
        max_event_size=262_144,
        max_step_size=1_048_576,
        publish_timeout=5.0,
    )


def test_the_default_source_of_an_app_without_a_name():
    assert Settings.from_app(Celery(set_as_current=False)).source == "/celery"


def test_set_as_an_attribute_of_the_configuration(app):
    app.conf.fanout_source = "/attribute"
    assert Settings.from_app(app).source == "/attribute"


def test_set_by_update(app):
    app.conf.update(fanout_source="/update", fanout_max_step_size=10)
    found = Settings.from_app(app)
    assert (found.source, found.max_step_size) == ("/update", 10)


def test_set_as_an_argument_of_the_app():
    app = Celery("shop", set_as_current=False, fanout_source="/argument")
    assert Settings.from_app(app).source == "/argument"


@pytest.fixture
def module(monkeypatch):
    module = types.ModuleType("tests_celeryconfig")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module


def test_set_in_a_module(app, module):
    module.fanout_source = "/module"
    module.task_default_queue = "shop"
    app.config_from_object("tests_celeryconfig")
    assert Settings.from_app(app).source == "/module"


@pytest.mark.parametrize(
    ("namespace", "key"),
    [
        ("CELERY", "CELERY_FANOUT_SOURCE"),
        ("SHOP", "SHOP_FANOUT_SOURCE"),
        ("celery", "celery_fanout_source"),
        ("CELERY_", "CELERY_FANOUT_SOURCE"),
    ],
)
def test_set_in_a_module_with_a_namespace(app, module, namespace, key):
    setattr(module, key, "/namespace")
    app.config_from_object("tests_celeryconfig", namespace=namespace)
    assert Settings.from_app(app).source == "/namespace"


@pytest.fixture
def django():
    """What ``django.conf.settings`` is after ``configure()``, for this test alone."""
    return UserSettingsHolder(global_settings)


def test_set_in_django(app, django):
    django.CELERY_FANOUT_SOURCE = "/django"
    django.CELERY_FANOUT_PUBLISH_TIMEOUT = 1
    app.config_from_object(django, namespace="CELERY")
    found = Settings.from_app(app)
    assert (found.source, found.publish_timeout) == ("/django", 1)


def test_unset_with_none(app):
    app.conf.fanout_publish_timeout = None
    assert Settings.from_app(app).publish_timeout == 5.0


UNKNOWN = "There is no setting 'fanout_sorce'. Did you mean 'fanout_source'?"


def test_an_unknown_setting_suggests_the_nearest(app):
    app.conf.fanout_sorce = "/shop"
    with pytest.raises(UnknownSetting) as caught:
        Settings.from_app(app)
    assert str(caught.value) == UNKNOWN


def test_an_unknown_setting_like_no_other(app):
    app.conf.fanout_xyz = 1
    with pytest.raises(UnknownSetting) as caught:
        Settings.from_app(app)
    assert str(caught.value) == "There is no setting 'fanout_xyz'. Remove it."


def test_an_unknown_setting_as_an_argument_of_the_app():
    with pytest.raises(UnknownSetting) as caught:
        Settings.from_app(Celery("shop", set_as_current=False, fanout_sorce="/shop"))
    assert str(caught.value) == UNKNOWN


@pytest.mark.parametrize("namespace", ["CELERY", "CELERY_", None])
def test_an_unknown_setting_in_a_module(app, module, namespace):
    setattr(module, "CELERY_FANOUT_SORCE" if namespace else "fanout_sorce", "/shop")
    app.config_from_object("tests_celeryconfig", namespace=namespace)
    with pytest.raises(UnknownSetting) as caught:
        Settings.from_app(app)
    assert str(caught.value) == UNKNOWN


def test_an_unknown_setting_in_django(app, django):
    django.CELERY_FANOUT_SORCE = "/shop"
    app.config_from_object(django, namespace="CELERY")
    with pytest.raises(UnknownSetting) as caught:
        Settings.from_app(app)
    assert str(caught.value) == UNKNOWN


def test_all_settings_in_one(app, django):
    django.CELERY_FANOUT = {"source": "/shop"}
    app.config_from_object(django, namespace="CELERY")
    with pytest.raises(InvalidSetting) as caught:
        Settings.from_app(app)
    assert str(caught.value) == (
        "fanout is a dict. It must be left out: each setting is one of its own, such as "
        "fanout_source."
    )


SECONDS = "It must be a number of seconds greater than 0."
BYTES = "It must be a number of bytes greater than 0."
WHOLE = "It must be a whole number greater than 0."
SHARDS = "It must be a whole number from 1 to 64."
PREFIX = "It must be 1 to 50 letters, digits, '.', '_', ':' and '-'."
RESULTS = 'It must be "ledger" or "celery".'


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("checkpoint_expires", 0, f"fanout_checkpoint_expires is 0. {SECONDS}"),
        ("checkpoint_expires", "7d", f"fanout_checkpoint_expires is '7d'. {SECONDS}"),
        ("checkpoint_expires", math.inf, f"fanout_checkpoint_expires is inf. {SECONDS}"),
        ("publish_timeout", -1.5, f"fanout_publish_timeout is -1.5. {SECONDS}"),
        ("publish_timeout", True, f"fanout_publish_timeout is True. {SECONDS}"),
        ("publish_timeout", math.nan, f"fanout_publish_timeout is nan. {SECONDS}"),
        ("max_event_size", 0, f"fanout_max_event_size is 0. {BYTES}"),
        ("max_event_size", 1.5, f"fanout_max_event_size is 1.5. {BYTES}"),
        ("max_step_size", "1 MiB", f"fanout_max_step_size is '1 MiB'. {BYTES}"),
        ("source", "", "fanout_source is ''. It must be a URI reference."),
        ("source", 7, "fanout_source is 7. It must be a URI reference."),
        (
            "store_url",
            True,
            'fanout_store_url is True. It must be a URL, "backend" or "memory://".',
        ),
        ("store_prefix", "", f"fanout_store_prefix is ''. {PREFIX}"),
        ("store_prefix", "{shop}", f"fanout_store_prefix is '{{shop}}'. {PREFIX}"),
        ("store_prefix", "x" * 51, f"fanout_store_prefix is '{'x' * 51}'. {PREFIX}"),
        ("store_prefix", 7, f"fanout_store_prefix is 7. {PREFIX}"),
        ("shards", 0, f"fanout_shards is 0. {SHARDS}"),
        ("shards", 65, f"fanout_shards is 65. {SHARDS}"),
        ("shards", 2.0, f"fanout_shards is 2.0. {SHARDS}"),
        ("shards", "6", f"fanout_shards is '6'. {SHARDS}"),
        ("lease", 0, f"fanout_lease is 0. {SECONDS}"),
        ("lease", "30", f"fanout_lease is '30'. {SECONDS}"),
        ("dedup_window", -1, f"fanout_dedup_window is -1. {SECONDS}"),
        ("success_retention", math.inf, f"fanout_success_retention is inf. {SECONDS}"),
        ("failure_retention", False, f"fanout_failure_retention is False. {SECONDS}"),
        ("event_retention", [7], f"fanout_event_retention is [7]. {SECONDS}"),
        ("max_crashes", 0, f"fanout_max_crashes is 0. {WHOLE}"),
        ("max_crashes", 2.5, f"fanout_max_crashes is 2.5. {WHOLE}"),
        ("max_crashes", True, f"fanout_max_crashes is True. {WHOLE}"),
        ("max_depth", -1, f"fanout_max_depth is -1. {WHOLE}"),
        ("max_depth", "50", f"fanout_max_depth is '50'. {WHOLE}"),
        ("results", "both", f"fanout_results is 'both'. {RESULTS}"),
        ("results", False, f"fanout_results is False. {RESULTS}"),
        ("results", ["celery"], f"fanout_results is ['celery']. {RESULTS}"),
        ("keeper", "no", "fanout_keeper is 'no'. It must be True or False."),
        ("keeper", 0, "fanout_keeper is 0. It must be True or False."),
        ("queue", "", "fanout_queue is ''. It must be the name of a queue."),
        ("queue", 7, "fanout_queue is 7. It must be the name of a queue."),
    ],
)
def test_a_value_that_cannot_be_used(app, name, value, message):
    app.conf[f"fanout_{name}"] = value
    with pytest.raises(InvalidSetting) as caught:
        Settings.from_app(app)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("store_prefix", "shop.eu:orders-2_b"),
        ("store_url", "memory://"),
        ("shards", 64),
        ("lease", 0.5),
        ("max_crashes", 1),
        ("dedup_window", 10),
        ("success_retention", 10),
        ("failure_retention", 10),
        ("event_retention", 10),
        ("results", "celery"),
        ("keeper", False),
        ("queue", "fast"),
        ("max_depth", 1),
    ],
)
def test_a_value_that_can_be_used(app, name, value):
    app.conf[f"fanout_{name}"] = value
    assert Settings.from_app(app) == dataclasses.replace(Settings(source="/shop"), **{name: value})


def test_the_old_message_protocol_is_refused(app):
    app.conf.task_protocol = 1
    with pytest.raises(InvalidSetting) as caught:
        Settings.from_app(app)
    assert str(caught.value) == "task_protocol is 1. It must be 2."
