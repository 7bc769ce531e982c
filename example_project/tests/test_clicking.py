"""Somebody clicks through the site, in a real browser."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from example_project.tests.conftest import Site, manage
from tests.processes import wait_until

SAMPLES = Path(__file__).resolve().parents[1] / "sample_documents"
SECONDS = 30_000
SUBJECTS = ("summary", "category", "entities")


#: For what does not depend on where the runs and the documents are, once one document was read.
servers = pytest.mark.parametrize("site", ["servers"], indirect=True, scope="module")


@pytest.fixture(scope="module", params=["embedded", "servers"])
def site(request: pytest.FixtureRequest, start_sites: Callable[..., Site]) -> Site:
    if request.param == "embedded":
        return start_sites("--embedded")
    redis = request.getfixturevalue("redis_server")
    redis.flush()
    postgres = request.getfixturevalue("shared_postgres_server")
    urls = {"REDIS_URL": redis.url(), "DATABASE_URL": postgres.url(postgres.add_database())}
    return start_sites(env=urls)


@pytest.fixture(scope="module")
def embedded(start_sites: Callable[..., Site]) -> Site:
    """One that needs no servers, for what does not depend on them."""
    return start_sites("--embedded")


def badge(page: Page, subject: str) -> Any:
    return page.locator(f"#card-{subject} .badge")


def send(page: Page, site: Site, file: str, trouble: str) -> None:
    page.goto(site.url)
    page.get_by_label("A text or Markdown file").set_input_files(SAMPLES / file)
    page.get_by_label(re.compile(trouble)).check()
    page.get_by_role("button", name="Send").click()
    expect(page).to_have_url(re.compile("/documents/"))


def sign_in(page: Page, site: Site) -> None:
    page.get_by_label("Username").fill("admin")
    page.get_by_label("Password").fill(site.password)
    page.get_by_role("button", name="Log in").click()


def test_a_document_is_read_and_the_classifier_recovers(
    site: Site, new_page: Callable[..., Page]
) -> None:
    page = new_page()
    send(page, site, "invoice.md", "Overloaded")
    for subject in ("summary", "entities"):
        expect(badge(page, subject)).to_have_text("Done", timeout=SECONDS)
    expect(badge(page, "category")).to_have_text("Will try again", timeout=SECONDS)
    expect(page.locator("#card-category")).to_contain_text("ModelUnavailable: 503 overloaded")
    expect(page.locator("#card-category .due")).to_contain_text("Tries again")
    # nobody reloads anything
    expect(badge(page, "category")).to_have_text("Done", timeout=SECONDS)
    expect(page.locator("#card-category")).to_contain_text("invoice")
    expect(page.locator("#card-category .attempts li")).to_have_count(3)
    expect(page.locator("#card-category .steps")).to_contain_text(
        "fetch done once, in attempt 1; 2 later attempts took it from the checkpoint"
    )
    expect(page.locator(".evidence")).to_contain_text(
        "5 attempts so far, and the text was fetched 3 times"
    )
    expect(page.get_by_role("status")).to_have_text("3 of 3 done.")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.wait_for_timeout(2500)  # more than two looks
    assert asked == []  # what has ended is not asked for
    page.get_by_role("link", name="All documents").click()
    expect(page.locator(".documents > li").first.locator(".badge.done")).to_have_count(3)


@servers
def test_a_failed_run_is_tried_again(site: Site, new_page: Callable[..., Page]) -> None:
    page = new_page()
    send(page, site, "contract.txt", "Down")
    expect(badge(page, "category")).to_have_text("Failed", timeout=SECONDS)
    page.locator("#timeline-category summary").click()
    expect(page.locator("#timeline-category pre")).to_contain_text("execution 3 ended: failed")
    page.get_by_role("link", name="Sign in to try again").click()
    sign_in(page, site)
    page.get_by_role("button", name="Try again").click()
    expect(page.get_by_text("It is tried again.")).to_be_visible()
    expect(badge(page, "category")).to_have_text("Done", timeout=SECONDS)
    expect(page.locator("#card-category")).to_contain_text("contract")
    expect(page.locator("#card-category .attempts li")).to_have_count(4)
    expect(page.locator(".evidence")).to_contain_text(
        "6 attempts so far, and the text was fetched 3 times"
    )
    page.get_by_role("link", name="Admin").click()
    page.get_by_role("link", name="Documents", exact=True).click()
    expect(page.get_by_role("link", name="contract.txt").first).to_be_visible()


def test_a_document_comes_by_webhook(site: Site, new_page: Callable[..., Page]) -> None:
    done = manage("send_document", str(SAMPLES / "quarterly_report.md"), **site.shared)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("202 quarterly_report.md: ")
    url = done.stdout.split()[-1]
    page = new_page()

    def has_come() -> bool:
        page.goto(site.url)
        return page.get_by_role("link", name="quarterly_report.md").count() == 1

    wait_until(has_come)
    expect(page.locator(".documents > li").first).to_contain_text("sent by a webhook")
    page.get_by_role("link", name="quarterly_report.md").click()
    assert page.url == url
    expect(badge(page, "category")).to_have_text("Done", timeout=SECONDS)
    expect(page.locator("#card-category")).to_contain_text("report")
    expect(page.locator(".badge.done")).to_have_count(3)


def test_a_mistake_is_explained(embedded: Site, new_page: Callable[..., Page]) -> None:
    page = new_page()
    page.goto(embedded.url)
    page.get_by_role("button", name="Send").click()
    expect(page.get_by_text("Choose a file, paste a text, or take a sample.")).to_be_visible()
    page.get_by_label("or a pasted text").fill("Dear Ada,\nyours, Bo")
    page.get_by_label("Well").check()
    page.get_by_role("button", name="Send").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Dear Ada,")


def test_without_javascript(embedded: Site, new_page: Callable[..., Page]) -> None:
    page = new_page(java_script_enabled=False)
    send(page, embedded, "letter.txt", "Overloaded")
    expect(badge(page, "category")).to_have_text("Done", timeout=SECONDS)  # it reloads itself
    expect(page.locator(".badge.done")).to_have_count(3)


def test_with_the_keyboard(embedded: Site, new_page: Callable[..., Page]) -> None:
    page = new_page()
    send(page, embedded, "contract.txt", "Down")
    page.locator("#timeline-category summary").focus()
    page.keyboard.press("Enter")
    # cards are replaced while it goes on: what was open stays open, and the focus where it was
    expect(badge(page, "category")).to_have_text("Failed", timeout=SECONDS)
    expect(page.locator("#timeline-category")).to_have_attribute("open", "")
    expect(page.locator("#timeline-category summary")).to_be_focused()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone(
    scheme: str, embedded: Site, new_page: Callable[..., Page], tmp_path: Path
) -> None:
    page = new_page(viewport={"width": 360, "height": 740}, color_scheme=scheme)
    send(page, embedded, "invoice.md", "Well")
    expect(page.locator(".badge.done")).to_have_count(3, timeout=SECONDS)
    page.locator("#timeline-category summary").click()
    for url in (page.url, embedded.url):
        page.goto(url)
        assert page.evaluate("document.documentElement.scrollWidth") == 360  # nothing sticks out
        page.screenshot(path=tmp_path / f"{scheme}.png", full_page=True)
