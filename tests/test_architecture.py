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
from celery_fanout import exceptions
from tests.uses import Place, Uses, room_of

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "celery_fanout"
FILES = sorted(PACKAGE.rglob("*.py"))
MODULES = {
    ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for file in FILES
}
LAYERS = [
    [
        room
        for room in re.findall(r"\w+", layer)
        if (PACKAGE / room).is_dir() or (PACKAGE / f"{room}.py").is_file()
    ]
    for contract in tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"][
        "contracts"
    ]
    if contract["type"] == "layers"
    for layer in contract["layers"]
]
#: What the API reference names, by module and name.
PUBLIC: set[Place] = {
    (name.rpartition(".")[0], name.rpartition(".")[2])
    for name in re.findall(
        r"^::: (\S+)$", (ROOT / "docs/reference/api.md").read_text(), re.MULTILINE
    )
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


# --- the size of things --------------------------------------------------------------------------


def test_the_top_of_the_package_is_read_at_a_glance() -> None:
    entries = {path.name for path in PACKAGE.iterdir()} - {"__init__.py", "__pycache__", "py.typed"}
    assert len(entries) <= 15, sorted(entries)


def test_there_are_few_floors() -> None:
    assert len(LAYERS) <= 10


def docstring_of(file: Path) -> str:
    return ast.get_docstring(ast.parse(file.read_text())) or ""


@pytest.mark.parametrize(
    "file",
    [
        file
        for file in FILES
        if file.name != "__init__.py" and len(file.read_text().split("\n")) < 40
    ],
    ids=lambda file: str(file.relative_to(ROOT)),
)
def test_a_short_file_says_why_it_is_apart(file: Path) -> None:
    """A reason is a sentence, and more than the file's name."""
    reason = docstring_of(file).partition("\n")[0]
    assert len(reason.split()) >= 6, reason
    assert reason.endswith(".")


# --- rooms ---------------------------------------------------------------------------------------


def test_each_room_says_whether_it_is_private() -> None:
    silent = [
        str(file.relative_to(ROOT))
        for file in FILES
        if file.name == "__init__.py"
        and file.parent != PACKAGE
        and not re.search(r"^(Private|Public): .", docstring_of(file), re.MULTILINE)
    ]
    assert silent == []


@pytest.mark.parametrize("room", [path.parent.name for path in PACKAGE.glob("*/__init__.py")])
def test_each_room_says_what_it_may_import(room: str) -> None:
    [number] = [number for number, layer in enumerate(LAYERS) if room in layer]
    below = LAYERS[number + 1 :]
    sentences = re.split(r"[.;](?:\s|$)", docstring_of(PACKAGE / room / "__init__.py"))
    [sentence] = [said for said in sentences if said.strip().startswith("May import")]
    if below:
        assert set(re.findall(r"``(\w+)``", sentence)) == set(below[0])
        assert (" below " in f"{sentence} ") == (len(below) > 1)
    else:
        assert "nothing" in sentence


def test_what_the_api_reference_names_is_in_no_private_room() -> None:
    rooms = set()
    for module, _ in PUBLIC:
        path = ROOT / module.replace(".", "/")
        rooms.add(path if path.is_dir() else path.parent)
    private = [
        room for room in rooms - {PACKAGE} if "\nPublic: " not in docstring_of(room / "__init__.py")
    ]
    assert private == []


#: What is used where it is not defined, for a reason.
ELSEWHERE = {
    "celery_fanout.app.live_checks.live_findings": "checks are one room, whoever prints them",
    "celery_fanout.app.processes.run_fast_worker": "a process; the command only starts it",
    "celery_fanout.app.processes.run_keeper": "a process; the command only starts it",
    "celery_fanout.operating.paging.page_of": "built on pages() and tested with it, without Django",
    "celery_fanout.operating.timeline.describe_event": "an event in the lines of timeline()",
}

#: Whose names everybody uses: there it is modules that need at least two users.
VOCABULARY = ("exceptions", "model", "stores")


def only_elsewhere(uses: Uses) -> dict[str, str]:
    """Return the names that one other room uses, and their own does not.

    - ``app`` puts parts together: classes and functions that only it uses are such parts.
    - Modules of VOCABULARY have words that belong together, such as all headers: what counts is
      whether the module as a whole has one other room only.
    - What is public has users outside of the package.
    """
    names = {*PUBLIC, *(("celery_fanout.exceptions", name) for name in exceptions.__all__)}
    public = {uses.origin(name) for name in names}
    by_module: dict[str, set[str]] = {}
    for module, name in uses.names:
        by_module.setdefault(module, set()).update(uses.rooms((module, name)))
    found: dict[str, str] = {}
    for (module, name), kind in uses.names.items():
        room, rooms = room_of(module), uses.rooms((module, name))
        if room in VOCABULARY:
            rooms = by_module[module]
        if len(rooms) != 1 or room in {"", "signals", *rooms} or (module, name) in public:
            continue
        if rooms == {"app"} and kind != "constant":
            continue
        found[f"{module}.{name}"] = next(iter(rooms))
    return found


def test_no_name_is_defined_in_one_room_and_used_only_in_another() -> None:
    found = only_elsewhere(Uses(PACKAGE))
    assert {name: room for name, room in found.items() if name not in ELSEWHERE} == {}
    assert [name for name in ELSEWHERE if name not in found] == [], "no exception any more"


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


class TestNames:
    """What the test above would find."""

    @pytest.fixture
    def package(self, tmp_path: Path) -> Path:
        package = tmp_path / "celery_fanout"
        for room in ("app", "emitting", "model", "running"):
            (package / room).mkdir(parents=True)
            (package / room / "__init__.py").touch()
        (package / "__init__.py").touch()
        (package / "emitting/parts.py").write_text("LIMIT = 1\ndef part(): ...\nclass Part: ...\n")
        (package / "model/words.py").write_text("ONE = 1\nTWO = 2\n")
        return package

    @pytest.mark.parametrize(
        ("user", "text", "expected"),
        [
            ("running", "from celery_fanout.emitting.parts import part", ["emitting.parts.part"]),
            (
                "running",
                "from celery_fanout.emitting import parts\nparts.Part()",
                ["emitting.parts.Part"],
            ),
            ("emitting", "from celery_fanout.emitting.parts import part, LIMIT", []),
            ("app", "from celery_fanout.emitting.parts import part, Part", []),
            ("app", "from celery_fanout.emitting.parts import LIMIT", ["emitting.parts.LIMIT"]),
            (
                "running",
                "from celery_fanout.model.words import ONE",
                ["model.words.ONE", "model.words.TWO"],
            ),
        ],
    )
    def test_one_user(self, package: Path, user: str, text: str, expected: list[str]) -> None:
        (package / user / "user.py").write_text(text)
        found = only_elsewhere(Uses(package))
        assert [name.removeprefix("celery_fanout.") for name in found] == expected
        assert set(found.values()) <= {user}

    def test_several_users(self, package: Path) -> None:
        text = "from celery_fanout.emitting.parts import part\n"
        (package / "running/user.py").write_text(
            text + "from celery_fanout.model.words import ONE\n"
        )
        (package / "app/user.py").write_text(text + "from celery_fanout.model.words import TWO\n")
        assert only_elsewhere(Uses(package)) == {}

    def test_a_name_that_is_passed_on(self, package: Path) -> None:
        (package / "emitting/__init__.py").write_text(
            "from celery_fanout.emitting.parts import part\n"
        )
        (package / "running/user.py").write_text("from celery_fanout.emitting import part\n")
        assert only_elsewhere(Uses(package)) == {}


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
