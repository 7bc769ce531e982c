"""What the design says of the code as a whole, held by machine."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import grimp
import pytest

import celery_fanout

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "celery_fanout"
FILES = sorted(PACKAGE.rglob("*.py"))
MODULES = {
    ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for file in FILES
}
# A door may use the package as a user does. Nothing else may, or the floors could be walked around.
DOORS = (
    "celery_fanout.cli",
    "celery_fanout.contrib",
    "celery_fanout.dashboard",
    "celery_fanout.testing",
)
# The modules that docs/reference/api.md says are public.
PUBLIC_MODULES = {
    "celery_fanout",
    "celery_fanout.checks",
    "celery_fanout.exceptions",
    "celery_fanout.signals",
    "celery_fanout.testing",
    *(
        f"celery_fanout.contrib.django.{name}"
        for name in (
            *("admin", "apps", "exceptions", "model_events", "models", "signals", "signatures"),
            *("testing", "webhooks"),
        )
    ),
}
# Names that say nothing, and so attract everything.
BANNED = {
    "base",
    "common",
    "core",
    "helpers",
    "lib",
    "manager",
    "managers",
    "misc",
    "tools",
    "util",
    "utils",
}


def lint_imports(directory: Path) -> subprocess.CompletedProcess[str]:
    """Hold the package in the directory against the contracts in the project's configuration."""
    return subprocess.run(
        [
            Path(sys.executable).with_name("lint-imports"),
            "--config",
            ROOT / "pyproject.toml",
            "--no-cache",
        ],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": str(directory), "COLUMNS": "200"},
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_a_file_can_be_read_in_one_go(file: Path) -> None:
    lines = len(file.read_text().splitlines())
    assert lines <= 400


def test_each_module_is_named_for_what_it_does() -> None:
    assert {module for module in MODULES if BANNED & set(module.lower().split("."))} == set()


def test_imports_go_down_only() -> None:
    result = lint_imports(ROOT)
    assert result.returncode == 0, result.stdout


def test_only_doors_use_the_package_as_a_user_does() -> None:
    graph = grimp.build_graph("celery_fanout", exclude_type_checking_imports=False)
    importers = graph.find_modules_that_directly_import("celery_fanout")
    assert {module for module in importers if not module.startswith(DOORS)} == set()


def test_the_top_of_the_package_is_read_at_a_glance() -> None:
    entries = {path.name for path in PACKAGE.iterdir() if path.name != "__pycache__"}
    assert len(entries) <= 15, sorted(entries)


def test_the_public_names_are_in_alphabetical_order() -> None:
    names = celery_fanout.__all__
    assert list(names) == sorted(names)
    assert [name for name in names if not hasattr(celery_fanout, name)] == []


def imported(source: str) -> set[str]:
    """Return what Python source imports of the package: modules, and of its top the names."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module == "celery_fanout":
            names |= {f"celery_fanout.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(str(node.module))
    return {name for name in names if name.partition(".")[0] == "celery_fanout"}


#: An import in a page: in a block of Python, at a prompt, or in a command.
IMPORT = re.compile(r"(?:from celery_fanout[\w.]* import [\w, ]+|import celery_fanout[\w.]*)")


def shown() -> set[tuple[str, str]]:
    """Return what the documentation and the example import of the package, each with its file."""
    sources = {file: file.read_text() for file in (ROOT / "example_project").rglob("*.py")}
    for page in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md")):
        sources[page] = "\n".join(text.rstrip(", ") for text in IMPORT.findall(page.read_text()))
    return {
        (str(file.relative_to(ROOT)), name)
        for file, source in sources.items()
        for name in imported(source)
    }


def test_the_documentation_and_the_example_import_what_is_public() -> None:
    names = PUBLIC_MODULES | {f"celery_fanout.{name}" for name in celery_fanout.__all__}
    assert {(file, name) for file, name in shown() if name not in names} == set()


def test_the_reference_says_what_is_public() -> None:
    text = (ROOT / "docs" / "reference" / "api.md").read_text()
    policy = text.partition("## What is public")[2].partition("\n## ")[0]
    for module in PUBLIC_MODULES:
        name = module.removeprefix("celery_fanout.contrib.django.")
        assert f"`{name}`" in policy, module


class TestTheContracts:
    """They hold because of what the modules import, and not because nobody looks."""

    @pytest.fixture
    def package(self, tmp_path: Path) -> Path:
        package = tmp_path / "celery_fanout"
        modules = (
            "app/fanout",
            "cli/main",
            "emitting/drafting",
            "emitting/publishing",
            "exceptions/root",
            "model/events",
            "running/executing",
        )
        for name in modules:
            file = package / f"{name}.py"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
            (file.parent / "__init__.py").touch()
        (package / "__init__.py").touch()
        return package

    def test_an_honest_package(self, package: Path) -> None:
        text = "import celery_fanout.running.executing, celery_fanout.model.events\n"
        (package / "app" / "fanout.py").write_text(text)
        result = lint_imports(package.parent)
        assert result.returncode == 0, result.stdout

    @pytest.mark.parametrize(
        ("module", "text", "complaint"),
        [
            (
                "emitting/publishing",
                "import celery_fanout.app.fanout\n",
                "celery_fanout.emitting.publishing -> celery_fanout.app.fanout",
            ),
            (
                "model/events",
                "if TYPE_CHECKING:\n    import celery_fanout.running.executing\n",
                "celery_fanout.model.events -> celery_fanout.running.executing",
            ),
            (
                "app/fanout",
                "from celery_fanout.cli import main\n",
                "celery_fanout.app.fanout -> celery_fanout.cli.main",
            ),
            ("homeless", "", "celery_fanout.homeless"),
        ],
    )
    def test_a_breach_is_found(self, package: Path, module: str, text: str, complaint: str) -> None:
        (package / f"{module}.py").write_text(text)
        result = lint_imports(package.parent)
        assert result.returncode == 1
        assert "Imports go down only BROKEN" in result.stdout
        assert complaint in result.stdout

    def test_a_circle_in_one_room_is_found(self, package: Path) -> None:
        room = package / "emitting"
        (room / "drafting.py").write_text("import celery_fanout.emitting.publishing\n")
        (room / "publishing.py").write_text("import celery_fanout.emitting.drafting\n")
        result = lint_imports(package.parent)
        assert result.returncode == 1
        assert "Imports go down only KEPT" in result.stdout
        assert "No circles BROKEN" in result.stdout
