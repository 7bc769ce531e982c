"""The documentation does what it says."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.docs.blocks import DOCS, PAGES, ROOT, blocks_of
from tests.docs.pages import EXPECT, KINDS, Page
from tests.processes import free_port
from tests.servers import RedisServer

_REDIS = re.compile(r"redis://localhost(?::6379)?(/\d+)?")
_HTTP = re.compile(r"(localhost|127\.0\.0\.1):8000|runserver$", re.MULTILINE)
_AMQP = re.compile(r"amqp://(?:guest:guest@)?localhost(?::5672)?//?")


def _localise(request: pytest.FixtureRequest, text: str) -> Callable[[str], str]:
    """Return what replaces the addresses of servers; starts those that the text mentions."""
    server: RedisServer = request.getfixturevalue("redis_server")
    server.flush()
    amqp = request.getfixturevalue("rabbit_url") if _AMQP.search(text) else ""

    def replace(source: str) -> str:
        source = _REDIS.sub(lambda m: f"redis://localhost:{server.port}{m[1] or ''}", source)
        return _AMQP.sub(amqp, source) if amqp else source

    return replace


@pytest.mark.parametrize("page", [name for name in PAGES if blocks_of(name)])
def test_a_page_does_what_it_says(
    page: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    localise_servers = _localise(request, PAGES[page].read_text())
    port = request.getfixturevalue("redis_server").port
    http_port = free_port() if _HTTP.search(PAGES[page].read_text()) else 8000

    def localise(source: str) -> str:
        source = _HTTP.sub(
            lambda m: f"{m[1]}:{http_port}" if m[1] else f"runserver {http_port}", source
        )
        return localise_servers(source)

    def globalise(text: str) -> str:
        text = text.replace(f"localhost:{port}", "localhost:6379")
        text = re.sub(rf"\b{http_port}\b", "8000", text)
        return text.replace(f"{tmp_path}/", "")

    Page(page, tmp_path, localise, globalise).play()


@pytest.mark.parametrize("page", PAGES)
def test_every_block_is_of_a_kind_that_is_tested(page: str) -> None:
    blocks = blocks_of(page)
    assert [block.where for block in blocks if block.language not in KINDS] == []
    assert len(blocks) == len(re.findall(r"^ *```\S", PAGES[page].read_text(), re.MULTILINE))
    assert not re.search(r"<(pre|code)\b|^~~~", PAGES[page].read_text(), re.MULTILINE)


def test_every_expectation_belongs_to_a_page() -> None:
    names = {str(file.relative_to(EXPECT).with_suffix(".md")) for file in EXPECT.rglob("*.py")}
    assert {name for name in names if not (DOCS / name).exists()} == set()


def test_every_page_is_reached() -> None:
    """So that a page without an entry in the navigation, or a README elsewhere, is noticed."""
    listed = set(re.findall(r'"([\w/.-]+\.md)"', (ROOT / "zensical.toml").read_text()))
    assert listed == {str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md")}
