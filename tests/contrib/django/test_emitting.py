from __future__ import annotations

from tests.contrib.django.conftest import Project


def test_an_event_outside_of_a_transaction_is_published_at_once(project: Project) -> None:
    out = project.run(
        """
        emission = emit("order/placed", {"number": "a"})
        print(len(emission.runs), get_fanout(app).runs.list() and "recorded")
        """
    )
    assert out.split() == ["2", "recorded"]
