"""Ids: written out, because runs and checkpoints that are under way are found by them."""

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery_fanout.model.ids import child_id, place_in, place_of, run_id

RUN = "00000000-0000-5000-8000-000000000000"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("order/paid", "e-1", "shop.tell@order/paid"), "8ad0848b-23fc-5321-a2cc-d32b0bf9db46"),
        (("order/paid", "e-1", "shop.tell@order/paid", 0), "8ad0848b-23fc-5321-a2cc-d32b0bf9db46"),
        (("order/paid", "e-1", "shop.tell@order/paid", 1), "5896f840-216c-5d0d-a0fa-e87611abe265"),
        (("order/paid", "e-2", "shop.tell@order/paid"), "c47907e7-13be-5fd4-9d92-c44cbafe3492"),
        (("order/paid", "Grüße", "shop.tell@order/*"), "5c31c143-609c-5014-83d9-2618550d42cc"),
    ],
)
def test_run_ids_never_change(arguments, expected):
    assert run_id(*arguments) == expected


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (("fetch", 1), "f66a8017-9fb8-576e-882a-bd5561491450"),
        (("fetch", 2), "42972b53-f78b-5b03-9f44-3e5d1fd0ddae"),
        (("then", "link", 1), "8dde213c-5ad9-5caa-aac7-a5ad523abd80"),
        (("emit", "tell", 1), "5e71d2c5-3b85-5498-bed2-7efa77e808a7"),
        (("on_failure",), "e32db657-e49f-5ea1-bbe6-3f309b561164"),
        (("Grüße", 1), "1d5da832-acd5-57e1-925e-3ed58e92330d"),
    ],
)
def test_child_ids_never_change(path, expected):
    assert child_id(RUN, *path) == expected


@pytest.mark.parametrize("place", [0, 21, 63])
def test_ids_may_say_where_a_run_lies(place):
    run = run_id("order/paid", "e-1", "shop.tell@order/paid", 0, place)
    child = child_id(run, "then", "link", 1)
    grandchild = child_id(child, "on_failure")
    for found in (run, child, grandchild, child_id(RUN, "then", 0, place=place)):
        assert uuid.UUID(found).version == 8
        assert uuid.UUID(found).variant == uuid.RFC_4122
        assert place_in(found) == place
    assert len({run, child, grandchild}) == 3


def test_ids_with_a_place_never_change():
    run = run_id("order/paid", "e-1", "shop.tell@order/paid", 0, 21)
    assert run == "15d0848b-23fc-8321-a2cc-d32b0bf9db46"
    assert child_id(run, "fetch", 1) == "15841722-bbd9-8eb2-b8c2-328d314ff83d"


@pytest.mark.parametrize(
    "id",
    [
        "",
        "e1-a",
        RUN,
        "8ad0848b-23fc-5321-a2cc-d32b0bf9db46",
        "40d0848b-23fc-8321-a2cc-d32b0bf9db46",  # there are 64 places
        "xyd0848b-23fc-8321-a2cc-d32b0bf9db46",
        "15d0848b-23fc-8321",
    ],
)
def test_other_ids_say_nothing(id):
    assert place_in(id) is None


@given(st.text(), st.integers(1, 64))
def test_events_have_a_place(key, shards):
    place = place_of(key, shards)
    assert place in ([None] if shards == 1 else [n * 64 // shards for n in range(shards)])


paths = st.lists(st.text() | st.integers(), min_size=1, max_size=3)


@given(paths, paths)
def test_other_paths_have_other_ids(one, other):
    assert (child_id(RUN, *one) == child_id(RUN, *other)) == (one == other)


@given(st.text(), st.text(), st.text(), st.text())
def test_names_do_not_run_into_each_other(name, event_id, subscription, more):
    plain = run_id(name, event_id, subscription)
    assert uuid.UUID(plain).version == 5
    assert (run_id(name + more, event_id, subscription) == plain) == (not more)
    assert (run_id(name, more + event_id, subscription) == plain) == (not more)
    assert run_id(name, event_id, subscription, 1) != plain
