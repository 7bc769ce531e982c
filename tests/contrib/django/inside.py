"""Tests that run inside a Django project: in one process per module, with an empty database each.

The process that pytest runs in has no settings, see :mod:`tests.contrib.django.conftest`. What a
module needs of Django it imports where :data:`INSIDE` is true.
"""

from __future__ import annotations

import base64
import importlib
import inspect
import json
import os
import pickle
import subprocess
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any

import pytest

from tests.servers import ROOT

#: Whether this is such a process.
INSIDE = "DJANGO_SETTINGS_MODULE" in os.environ

SETTINGS = "tests.contrib.django.settings"


class Inside:
    """A process of the project that runs test functions.

    Args:
        settings: Django settings besides those of the project.
    """

    def __init__(self, **settings: Any) -> None:
        env = {**os.environ, "DJANGO_SETTINGS_MODULE": SETTINGS}
        env["TEST_SETTINGS"] = json.dumps(settings)
        self._process = subprocess.Popen(
            [sys.executable, "-c", "from tests.contrib.django.inside import main; main()"],
            cwd=ROOT,
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, test: Callable[..., None], arguments: dict[str, Any]) -> None:
        """Run a function there, and fail as it fails."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        encoded = base64.b64encode(pickle.dumps(arguments)).decode()
        self._process.stdin.write(f"{test.__module__} {test.__qualname__} {encoded}\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        if answer:
            pytest.fail(answer, pytrace=False)

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


def in_django(test: Callable[..., None]) -> Any:
    """Have a test function run in the process of the fixture ``django_process``."""

    @wraps(test)
    def outside(django_process: Inside, **arguments: Any) -> None:
        django_process.run(test, arguments)

    place = inspect.Parameter("django_process", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    signature = inspect.signature(test)
    found: Any = outside
    found.__signature__ = signature.replace(parameters=[place, *signature.parameters.values()])
    found.inside = test
    return found


@pytest.fixture(scope="module")
def django_process() -> Iterator[Inside]:
    """A process with the project, and the models of ``catalog`` besides."""
    settings = importlib.import_module(SETTINGS)
    found = Inside(INSTALLED_APPS=[*settings.INSTALLED_APPS, "tests.contrib.django.catalog"])
    yield found
    found.close()


# --- in the process ------------------------------------------------------------------------------


def _empty_tables() -> None:
    from django.apps import apps
    from django.db import connection, transaction

    with transaction.atomic(), connection.cursor() as cursor:
        for model in apps.get_models(include_auto_created=True):
            if model._meta.managed and not model._meta.proxy:
                cursor.execute(f'DELETE FROM "{model._meta.db_table}"')  # noqa: S608


def main() -> None:
    """Run the functions that standard input names."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    import django
    from django.core.management import call_command

    django.setup()
    call_command("migrate", run_syncdb=True, verbosity=0)
    warnings.simplefilter("error")
    for line in sys.stdin:
        module, name, encoded = line.split()
        error = ""
        try:
            _empty_tables()
            test = getattr(importlib.import_module(module), name).inside
            test(**pickle.loads(base64.b64decode(encoded)))  # noqa: S301 - from our own parent
        except BaseException as exc:  # noqa: BLE001 - SystemExit too
            found = traceback.TracebackException.from_exception(exc, capture_locals=True)
            error = "".join(found.format())
        print(json.dumps(error), file=answers, flush=True)
