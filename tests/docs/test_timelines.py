"""The timelines in the pages are those of the app that is drawn now."""

from __future__ import annotations

import re

from tests.docs.blocks import PAGES
from tests.docs.timelines import PLANS, declaration

_SHOWN = re.compile(
    r"<!-- timeline: (\w+) -->\n\n    (.+)\n\n((?:    .+\n)+)\n<!-- end of timeline -->"
)


def shown() -> dict[str, tuple[str, str]]:
    """Return what the pages have: by its name, the options and the drawing."""
    text = "".join(page.read_text() for page in PAGES.values())
    found = {name: (options, drawing) for name, options, drawing in _SHOWN.findall(text)}
    assert len(found) == text.count("<!-- timeline:") == text.count("<!-- end of timeline")
    return found


def test_each_is_in_a_page_with_its_options() -> None:
    assert {name: options for name, (options, _) in shown().items()} == {
        name: declaration(name) for name in PLANS
    }


def test_each_has_all_events_of_its_plan() -> None:
    for name, (_, drawing) in shown().items():
        scale, *rows = drawing.splitlines()
        assert scale.split()[:4] == ["0", "s", "1", "s"]
        labels = [row.split()[0] for row in rows if not row.strip().startswith("run of")]
        assert labels == [id_ for _, id_, _ in PLANS[name]]
        assert all(re.search(r"[#x+]", row) for row in rows)
