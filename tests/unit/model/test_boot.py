"""Boot ids: one for each start of a worker, shared by its pool."""

import os
import subprocess
import sys
import textwrap

import pytest

from celery_fanout.model import boot


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    monkeypatch.setattr(boot, "_boot", [])
    monkeypatch.setattr(boot, "_master", [])


def test_it_stays_the_same():
    first = boot.boot_id()
    assert boot.boot_id() == first
    assert len(first) == 12
    assert boot.is_main()


def test_a_new_one_differs():
    first = boot.boot_id()
    second = boot.new_boot()
    assert second != first
    assert boot.boot_id() == second


def test_before_there_is_one_no_process_is_the_main_one():
    assert not boot.is_main()


def test_a_forked_process_shares_it_and_is_not_the_main_one():
    mine = boot.new_boot()
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, f"{boot.boot_id()} {boot.is_main()}".encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(reader, 100).decode() == f"{mine} False"
    os.close(reader)
    os.close(writer)


def test_each_process_that_was_started_has_its_own():
    script = "from celery_fanout.model.boot import boot_id; print(boot_id())"
    found = {
        subprocess.run(
            [sys.executable, "-c", textwrap.dedent(script)],
            check=True,
            capture_output=True,
            text=True,
        ).stdout.strip()
        for _ in range(2)
    }
    assert len(found) == 2
