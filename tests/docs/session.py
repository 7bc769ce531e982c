"""The process in which the Python blocks of one page run, one after the other, in one namespace.

It is started by :mod:`tests.docs.pages` in the page's directory, and reads requests from its
standard input: one JSON object per line, with ``kind``, ``source`` and ``name``.
"""

from __future__ import annotations

import contextlib
import doctest
import io
import json
import linecache
import os
import sys
import traceback
import types
import warnings
from typing import Any

from tests.docs.matching import matches


class _Checker(doctest.OutputChecker):
    def check_output(self, want: str, got: str, optionflags: int) -> bool:
        return matches(want, got) if want.strip() else not got.strip()


def _execute(source: str, name: str, namespace: dict[str, Any]) -> None:
    linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
    exec(compile(source, name, "exec", dont_inherit=True), namespace)  # noqa: S102 - that is what it is for


def _doctest(source: str, name: str, namespace: dict[str, Any]) -> None:
    test = doctest.DocTestParser().get_doctest(source, namespace, name, name, 0)
    runner = doctest.DocTestRunner(checker=_Checker(), verbose=False)
    report = io.StringIO()
    runner.run(test, out=report.write, clear_globs=False)
    namespace.update(test.globs)
    if runner.failures:
        raise AssertionError(report.getvalue())


def main() -> None:
    """Answer requests until standard input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a block prints from C or from another process is no answer
    sys.path.insert(0, "")
    warnings.simplefilter("error")
    page = types.ModuleType("tasks")  # Celery names tasks after their module
    sys.modules["tasks"] = page
    namespace = page.__dict__
    for line in sys.stdin:
        request = json.loads(line)
        printed = io.StringIO()
        error = None
        execute = _doctest if request["kind"] == "pycon" else _execute
        try:
            with contextlib.redirect_stdout(printed):
                execute(request["source"], request["name"], namespace)
        except BaseException:  # noqa: BLE001 - SystemExit too
            error = traceback.format_exc()
        print(json.dumps({"printed": printed.getvalue(), "error": error}), file=answers, flush=True)


if __name__ == "__main__":
    main()
