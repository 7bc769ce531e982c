"""The benchmarks that take long, at sizes that say nothing: that they still run."""

import pytest

from tests.benchmarks import sleeping, timers
from tests.benchmarks.engines import comparing, restate_engine
from tests.benchmarks.engines.engine import Unavailable, need
from tests.benchmarks.reporting import circumstances, replace


def cells(printed, row):
    """Return the cells of the first such row."""
    line = next(line for line in printed.splitlines() if line.startswith(f"| {row} "))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_sleeping_runs_are_weighed_and_all_wake(capsys):
    sleeping.main(size=40, idle=0.2)
    printed = capsys.readouterr().out
    assert cells(printed, "beyond its data")[2] == "1,024"
    assert int(cells(printed, "done/s")[1].replace(",", "")) > 0


def test_timers_are_added_and_drained(capsys):
    timers.main(size=250)
    printed = capsys.readouterr().out
    assert len([line for line in printed.splitlines() if "take and mark" in line]) == 2


def test_engines_are_compared(capsys):
    comparing.main(rounds=1, size=4, only=["fast workers"])
    printed = capsys.readouterr().out
    assert len(cells(printed, "celery_fanout, 2 fast workers")) == 11
    assert printed.count("| celery_fanout, 2 fast workers ") == 2  # without steps, and with


class TestAnEngineThatIsNotThere:
    def test_it_is_named_in_the_output(self, capsys, monkeypatch):
        def versions():
            return need("no-such-distribution")

        monkeypatch.setattr(restate_engine.Restate, "versions", versions)
        comparing.main(rounds=1, only=["Restate"])
        assert (
            "- Restate: not measured, no-such-distribution is not installed: make bench installs it"
            in capsys.readouterr().out
        )

    def test_one_missing_part_is_enough(self):
        with pytest.raises(Unavailable, match="is not installed"):
            need("celery", "no-such-distribution")


class TestThePage:
    def test_what_was_measured_replaces_what_was_there(self, tmp_path):
        page = tmp_path / "page.md"
        page.write_text("# A\n\n<!-- begin: x -->\nold\n<!-- end: x -->\n\nB\n")
        replace(page, "x", "\nnew\n")
        assert page.read_text() == "# A\n\n<!-- begin: x -->\n\nnew\n\n<!-- end: x -->\n\nB\n"

    def test_a_page_without_a_place_for_it_stays_as_it_is(self, tmp_path):
        page = tmp_path / "page.md"
        page.write_text("# A\n")
        with pytest.raises(LookupError, match="has no place for x: add <!-- begin: x -->"):
            replace(page, "x", "new")
        assert page.read_text() == "# A\n"

    def test_it_says_how_busy_the_machine_was(self):
        assert "load before it" in circumstances()
