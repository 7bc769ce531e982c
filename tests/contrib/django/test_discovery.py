"""Whoever emits in a Django project knows all subscribers, and so does each worker."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.contrib.django.conftest import Database, Project
from tests.processes import wait_until
from tests.servers import RedisServer

SETTINGS = """
SECRET_KEY = "tests"
USE_TZ = True
INSTALLED_APPS = ["shop.apps.ShopConfig", "celery_fanout.contrib.django", "billing"]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
CELERY_BROKER_URL = "memory://"
CELERY_RESULT_BACKEND = "cache+memory://"
"""

CELERY = """
import os
from celery import Celery

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "proj.settings")
app = Celery("proj")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()
"""

SUBSCRIBER = """
from celery import shared_task
from celery_fanout import on_event

@on_event("order/placed")
@shared_task
def {name}(data):
    pass
"""

FILES = {
    "proj/__init__.py": "from proj.celery import app as celery_app",
    "proj/celery.py": CELERY,
    "proj/settings.py": SETTINGS,
    "shop/__init__.py": "",
    "shop/apps.py": """
        from django.apps import AppConfig

        class ShopConfig(AppConfig):
            name = "shop"
        """,
    "shop/subscribers.py": SUBSCRIBER.format(name="pack"),
    "shop/tasks.py": SUBSCRIBER.format(name="ship"),
    "billing/__init__.py": "",
    "billing/models.py": "",
    "billing/events.py": """
        from pydantic import BaseModel
        from celery_fanout import event_type

        @event_type("order/placed")
        class OrderPlaced(BaseModel):
            number: str
        """,
    "billing/subscribers.py": SUBSCRIBER.format(name="invoice"),
}

#: What everybody has to know.
SUBSCRIBERS = ["billing.subscribers.invoice", "shop.subscribers.pack", "shop.tasks.ship"]

SHOW = """
from celery_fanout import emit, get_fanout
emission = emit("order/placed", {"number": "1"})
print(sorted(run.subscription.task.name for run in emission.runs))
"""


class Site:
    """A Django project in a directory of its own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.write(FILES)

    def write(self, files: dict[str, str]) -> None:
        for name, content in files.items():
            file = self.directory / name
            file.parent.mkdir(exist_ok=True)
            file.write_text(textwrap.dedent(content))

    def run(self, script: str) -> subprocess.CompletedProcess[str]:
        env = {**os.environ, "DJANGO_SETTINGS_MODULE": "proj.settings"}
        return subprocess.run(
            [sys.executable, "-W", "error::RuntimeWarning", "-c", script],
            cwd=self.directory,
            env=env,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    def prints(self, script: str) -> str:
        done = self.run(script)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def fails(self, script: str) -> str:
        """Return the last line of the traceback."""
        done = self.run(script)
        assert done.returncode == 1, done.stdout
        return done.stderr.strip().splitlines()[-1]


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_a_web_process_knows_all_subscribers(site: Site) -> None:
    script = f"import django; django.setup()\n{SHOW}"
    assert site.prints(script) == str(SUBSCRIBERS)


@pytest.mark.parametrize(
    "lines", ["", "app.autodiscover_tasks", "app.autodiscover_tasks(['shop'])"]
)
def test_whatever_the_celery_app_discovers_by_itself(site: Site, lines: str) -> None:
    site.write({"proj/celery.py": CELERY.replace("app.autodiscover_tasks()", lines)})
    assert site.prints(f"import django; django.setup()\n{SHOW}") == str(SUBSCRIBERS)


def test_a_celery_app_that_is_imported_after_django_has_started(site: Site) -> None:
    site.write({"proj/__init__.py": ""})
    script = f"import django; django.setup()\nfrom proj.celery import app\n{SHOW}"
    assert site.prints(script) == str(SUBSCRIBERS)


def test_a_script_that_only_imports_the_celery_app(site: Site) -> None:
    # Celery sets Django up when it imports the task modules
    assert site.prints(f"from proj.celery import app\n{SHOW}") == str(SUBSCRIBERS)


def test_each_is_registered_once(site: Site) -> None:
    script = """
import django; django.setup()
from proj.celery import app
from celery_fanout import get_fanout
for _ in range(2):
    app.autodiscover_tasks(related_name="subscribers", force=True)
    app.loader.import_default_modules()
    get_fanout(app).prepare_worker()
print(sorted(subscription.task.name for subscription in get_fanout(app).registry))
"""
    assert site.prints(script) == str(SUBSCRIBERS)


def test_a_project_without_a_celery_app(site: Site) -> None:
    site.write({"proj/__init__.py": ""})
    (site.directory / "proj/celery.py").unlink()
    setup = "import django; django.setup()\n"
    assert site.prints(f"{setup}print('fine')") == "fine"
    assert site.fails(setup + SHOW) == (
        "celery_fanout.exceptions.NoApp: There is no Celery app in this process. Import the module "
        "that creates it, or pass app=."
    )


@pytest.mark.parametrize("module", ["events", "subscribers", "tasks"])
def test_an_import_that_fails_is_heard_of(site: Site, module: str) -> None:
    site.write({f"shop/{module}.py": "import not_there"})
    last = site.fails("import django; django.setup()")
    assert last == "ModuleNotFoundError: No module named 'not_there'"
    site.write({f"shop/{module}.py": "from shop import nothing"})
    assert "cannot import name 'nothing' from 'shop'" in site.fails("import django; django.setup()")


def test_a_subscription_that_is_wrong_is_heard_of(site: Site) -> None:
    site.write(
        {
            "shop/subscribers.py": """
                from celery_fanout import on_event

                @on_event("order/placed")
                def pack(data):
                    pass
                """
        }
    )
    last = site.fails("import django; django.setup()")
    assert last.startswith("celery_fanout.exceptions.NotATask: on_event needs a Celery task")


def test_another_choice_of_modules(site: Site) -> None:
    site.write(
        {
            "shop/apps.py": """
                from celery_fanout.contrib.django.apps import FanoutConfig
                from django.apps import AppConfig

                class ShopConfig(AppConfig):
                    name = "shop"

                class Chosen(FanoutConfig):
                    discovers = ("subscribers",)
                """,
            "proj/celery.py": CELERY.replace("app.autodiscover_tasks()", ""),
            "proj/settings.py": SETTINGS.replace(
                "celery_fanout.contrib.django", "shop.apps.Chosen"
            ),
        }
    )
    known = ["billing.subscribers.invoice", "shop.subscribers.pack"]
    assert site.prints(f"import django; django.setup()\n{SHOW}") == str(known)


def test_a_worker_knows_the_subscribers_of_subscribers_py(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    redis_server.flush()
    oracle = tmp_path / "oracle.jsonl"
    database = {"ENGINE": "django.db.backends.sqlite3", "NAME": str(tmp_path / "db.sqlite3")}
    project = Project(
        Database("sqlite", database),
        oracle,
        {
            "DJANGO_SETTINGS_MODULE": "tests.contrib.django.settings",
            "TEST_BROKER": redis_server.url(0),
            "TEST_BACKEND": redis_server.url(1),
            "TEST_ORACLE": str(oracle),
        },
    )
    from tests.contrib.django import settings

    project.settings(INSTALLED_APPS=[*settings.INSTALLED_APPS, "tests.contrib.django.catalog"])
    script = "emission = emit('catalog/opened', {'shelf': 3}); tell(len(emission.runs))"
    assert project.told(script) == [1]
    with project.worker():
        wait_until(project.ran)
    assert project.ran() == [{"kind": "run", "task": "greet", "data": {"shelf": 3}}]
