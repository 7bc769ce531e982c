# ruff: noqa: F821 - the names are those of the page
"""How often everybody was asked, and the choices."""

from pathlib import Path

for model, times in {"small": 1, "medium": 2, "large": 1, "the judge": 1}.items():
    assert WORKER_LOG.count(f"{model} is asked") == times, WORKER_LOG

Path("medium-was-asked").unlink()
assert ask_or_not("medium", "why?") == {
    "model": "medium",
    "text": "",
    "error": "medium has too much to do",
}
