"""The benchmarks that take long, at sizes that say nothing: that they still run."""

import pytest

from tests.benchmarks import backlog, limited, limits, sleeping, timers
from tests.benchmarks.engines import (
    celery_engines,
    comparing,
    dbos_engines,
    queueing,
    restate_engine,
)
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


class TestLimits:
    def test_an_emit_is_compared_with_each_option(self, capsys):
        limits.main(rounds=1, only=["emit"], emits=1)
        lines = capsys.readouterr().out.splitlines()
        rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
        options = [*limited.FREE, *limited.COLLECTING, *limited.REFUSING]
        assert [row[0] for row in rows if row[0] in options] == options * 4

    @pytest.mark.parametrize("option", [*limited.FREE, *limited.REFUSING])
    def test_on_one_redis_an_emit_is_one_command(self, option, redis_server):
        emitter = limits.Emitter(redis_server, redis_server, 2)
        assert emitter.commands(option) == 1

    def test_a_run_is_compared_with_each_option(self, capsys):
        limits.of_runs("fast", 1, 100)
        printed = capsys.readouterr().out
        assert cells(printed, "none")[4:6] == ["1.00", "1.00"]
        assert all(len(cells(printed, option)) == 7 for option in limited.BACKLOG)

    def test_the_next_run_of_a_backlog_takes_the_same_commands_however_many_wait(self, capsys):
        backlog.main(size=40, rounds=1, runs=1)
        lines = capsys.readouterr().out.partition("The next run starts")[2].splitlines()
        rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
        assert [row[:3] for row in rows if row[0] in ("1", "1,000")] == [
            [lanes, waiting, "4"] for lanes in ("1", "1,000") for waiting in ("1", "4", "40")
        ]

    def test_a_queue_is_compared_with_one_of_dbos_if_that_is_there(self, capsys, monkeypatch):
        monkeypatch.setattr(
            dbos_engines.DbosPostgres, "versions", lambda: need("no-such-distribution")
        )
        monkeypatch.setattr(queueing, "OURS", [celery_engines.Fast])
        queueing.main(rounds=1, size=4)
        printed = capsys.readouterr().out
        assert printed.count("| celery_fanout, 2 fast workers ") == 3
        assert "- DBOS, PostgreSQL: not measured, no-such-distribution is not" in printed


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
