"""Makes the pictures of the documentation again: `python -m example_project.tests.screenshots`."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from playwright.sync_api import Page, expect, sync_playwright

from example_project.tests.conftest import CHROMIUM, ROOT, Site
from tests.processes import dismiss_guardian
from tests.servers import program

SECONDS = 30_000


def send(page: Page, site: Site, sample: str, trouble: str) -> None:
    page.goto(site.url)
    page.get_by_label("or a sample").select_option(sample)
    page.get_by_label(re.compile(trouble)).check()
    page.get_by_role("button", name="Send").click()


def take(site: Site, directory: Path) -> None:
    """Take each picture, with documents in each state."""
    with sync_playwright() as playwright:
        path = program("chromium", "chromium")
        browser = playwright.chromium.launch(executable_path=path, args=CHROMIUM)
        page = browser.new_page(viewport={"width": 1000, "height": 700})
        send(page, site, "letter.txt", "Well")
        send(page, site, "contract.txt", "Down")
        expect(page.locator("#card-category .badge")).to_have_text("Failed", timeout=SECONDS)
        send(page, site, "invoice.md", "Overloaded")
        retrying = page.locator("#card-category .badge", has_text="Will try again")
        expect(retrying).to_be_visible(timeout=SECONDS)
        expect(page.locator("#card-category .attempts li")).to_have_count(2, timeout=SECONDS)
        expect(retrying).to_be_visible(timeout=SECONDS)
        page.screenshot(path=directory / "example-document.png")
        expect(page.locator(".badge.done")).to_have_count(3, timeout=SECONDS)
        page.emulate_media(color_scheme="dark")
        page.goto(site.url)
        page.screenshot(path=directory / "example-inbox-dark.png", full_page=True)
        browser.close()


def main() -> int:
    directory = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs" / "images"
    directory.mkdir(parents=True, exist_ok=True)
    with Site("--embedded") as site:
        take(site, directory)
    dismiss_guardian()
    for picture in sorted(directory.glob("example-*.png")):
        print(f"{picture}: {picture.stat().st_size:,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
