"""Flow control in words."""

import pytest

from celery_fanout.operating.explaining import outlook
from celery_fanout.operating.texts import number_of, period_of
from celery_fanout.operating.timeline import gated
from celery_fanout.stores.limits import Gate, Preview
from celery_fanout.stores.records import RunRecord
from celery_fanout.stores.states import RunState

NOW = 1_800_000_000.0  # 2027-01-15 08:00:00
SUB = "shop.ship@order/paid"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.5, "0.5 s"), (60, "1 min"), (90, "90 s"), (7200, "2 h"), (86_400, "1 d"), (1, "1 s")],
)
def test_periods(seconds, text):
    assert period_of(seconds) == text


@pytest.mark.parametrize(
    ("kind", "numbers", "text"),
    [
        ("concurrency", (1200, 0.0), "1,200"),
        ("singleton", (1, 0.0), "1"),
        ("throttle", (10, 60.0), "10 per 1 min"),
        ("throttle", (10, 0.0), "10"),
        ("rate_limit", (5, 1.5), "5 per 1.5 s"),
        ("debounce", (0, 5.0), "quiet for 5 s"),
        ("batch", (20, 10.0), "20 or 10 s"),
        ("idempotency", (1, 86_400.0), "1 per 1 d"),
    ],
)
def test_numbers(kind, numbers, text):
    assert number_of(kind, *numbers) == text


def gate(kind, key=None):
    return Gate(f"{kind} {SUB}") if key is None else Gate(f"{kind} {SUB} by tenant", key)


@pytest.mark.parametrize(
    ("preview", "text"),
    [
        (Preview("start"), "would start"),
        (Preview("start", gate("throttle"), 5, 1), "would start"),
        (
            Preview("wait", gate("concurrency", "a"), 2, 2, 14),
            f"would wait: concurrency {SUB} by tenant 'a' has 2 of 2 in use, 14 wait",
        ),
        (
            Preview("wait", gate("throttle"), 5, 1, 1000, NOW + 3.2),
            f"would wait: throttle {SUB} lets it start in 3.2 s, after the 1,000 that wait",
        ),
        (
            Preview("wait", gate("throttle"), 0, 1, 0),
            f"would wait: throttle {SUB} lets it start later",
        ),
        (
            Preview("drop", gate("rate_limit"), 5, 5, 0, NOW + 3),
            f"would be dropped: rate_limit {SUB} has had 5 of 5",
        ),
        (
            Preview("drop", gate("idempotency", "17")),
            f"would be dropped: idempotency {SUB} by tenant '17' has had its run",
        ),
        (
            Preview("drop", gate("singleton", "a"), 1, 1),
            f"would be dropped: singleton {SUB} by tenant 'a' has its run",
        ),
        (
            Preview("cancel", gate("singleton"), 1, 1),
            f"would cancel the run that has singleton {SUB}, and start",
        ),
        (
            Preview("collect", gate("debounce"), 0, 0, 0, NOW + 5),
            f"would be the first event that debounce {SUB} collects; it starts in 5.0 s",
        ),
        (
            Preview("join", gate("batch"), 20, 3, 0, NOW + 5),
            f"would join the 3 of 20 event(s) that batch {SUB} collects; they start in 5.0 s",
        ),
        (
            Preview("join", gate("debounce"), 0, 3, 0, NOW + 5),
            f"would join the 3 event(s) that debounce {SUB} collects; they start in 5.0 s",
        ),
    ],
)
def test_what_would_happen(preview, text):
    assert outlook(preview, NOW) == text


@pytest.mark.parametrize(
    ("reason", "due", "text"),
    [
        (f"throttle {SUB}", None, f"for throttle {SUB}, since 2027-01-15 08:00:00, for 1 min 5 s"),
        (
            f"batch {SUB}",
            NOW + 75,
            f"batch {SUB} collects events, until 2027-01-15 08:01:15, in 10.0 s",
        ),
        (
            "",
            None,
            "for its subscription to be resumed, since 2027-01-15 08:00:00, for 1 min 5 s",
        ),
        (
            "mended",
            None,
            "for its subscription to be resumed, since 2027-01-15 08:00:00, for 1 min 5 s",
        ),
    ],
)
def test_what_a_gated_run_waits_for(reason, due, text):
    run = RunRecord("r", "event", SUB, "e", RunState.GATED, updated=NOW, reason=reason, due=due)
    assert gated(run, NOW + 65) == text
