# ruff: noqa: F821 - the names are those of the page
import pytest

from celery_fanout.exceptions import DuplicateSubscription, InvalidPattern, InvalidSubscription


def pattern_matches(pattern, name):
    from celery_fanout.model.events import patterns_of

    return pattern in patterns_of(name)


TABLE = {  # the table of patterns
    "document/uploaded": (["document/uploaded"], ["document/uploaded/again"]),
    "document/*": (
        ["document/uploaded", "document/page/added"],
        ["document", "documents/uploaded"],
    ),
    "github/push.*": (["github/push.main"], ["github/push"]),
}
for pattern, (matching, others) in TABLE.items():
    assert all(pattern_matches(pattern, name) for name in matching)
    assert not any(pattern_matches(pattern, name) for name in others)

with pytest.raises(InvalidPattern):
    on_event("document/up*")
with pytest.raises(DuplicateSubscription):
    on_event("document/uploaded")(index)
with pytest.raises(InvalidSubscription):
    on_event("document/uploaded", options={"task_id": "mine"})
