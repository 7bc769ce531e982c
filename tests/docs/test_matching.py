"""What counts as the same output, and what does not."""

from __future__ import annotations

import pytest

from tests.docs.matching import appears, matches


@pytest.mark.parametrize(
    ("expected", "found"),
    [
        ("a\n", "a  \n"),
        ("a\n...\nb\n", "a\nb\n"),
        ("a\n...\nb\n", "a\nx\ny\nb\n"),
        ("took ... steps\n", "took 12 steps\n"),
        ("7 passed in 0.21s\n", "7 passed in 1.07s\n"),
        (
            "2026-11-22T10:00:00Z 0ed3cc3c-7c08-5d4f-8f7c-9a2f7f9e2d54\n",
            "2027-01-02T11:22:33.444Z 86a2dd7c-47a9-5e43-93bf-2b0ec9e2d9ab\n",
        ),
    ],
)
def test_the_same(expected: str, found: str) -> None:
    assert matches(expected, found)


@pytest.mark.parametrize(
    ("expected", "found"),
    [
        ("a\n", "b\n"),
        ("a\n", "a\nb\n"),
        ("a.c\n", "abc\n"),
        ("a\n...\nb\n", "a\n"),
        ("8 passed in 0.21s\n", "7 passed in 0.21s\n"),
    ],
)
def test_not_the_same(expected: str, found: str) -> None:
    assert not matches(expected, found)


def test_lines_of_a_log() -> None:
    log = "begin\n[2026-11-22 15:09:35,004: INFO] one\ntwo\nthree\nend\n"
    assert appears("[2030-01-01 00:00:00,000: INFO] one\ntwo\n", log)
    assert appears("two\n...\nend\n", log)
    assert not appears("two\nend\n", log)
    assert not appears("three\n...\ntwo\n", log)
