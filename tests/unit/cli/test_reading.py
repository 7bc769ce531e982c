"""What the command line is given as DATA."""

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery_fanout.cli.command import read_json


@given(st.text() | st.integers(1000, 60_000).map(lambda depth: "[" * depth))
def test_any_argument_is_read_or_refused(text):
    if text == "-":
        return  # standard input
    try:
        read_json(text)
    except click.UsageError as exc:
        assert str(exc).startswith("DATA ")  # noqa: PT017 - most are refused, some are JSON


@pytest.mark.parametrize("content", [b"\xff\xfe", b"{", b"[" * 60_000])
def test_a_file_that_is_no_json(tmp_path, content):
    path = tmp_path / "data"
    path.write_bytes(content)
    with pytest.raises(click.UsageError, match=r"^DATA (cannot be read|is no JSON)"):
        read_json(f"@{path}")
