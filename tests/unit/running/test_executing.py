"""Which tasks decide themselves what a run returns, in a worker as outside of one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from celery import Celery, Task
from celery.app.trace import _install_stack_protection, reset_worker_optimizations

from celery_fanout.running.executing import _has_own_call


@pytest.fixture(params=[False, True], ids=["outside", "in a worker"])
def app(request: pytest.FixtureRequest) -> Iterator[Celery]:
    """An app, whose worker has put another ``__call__`` in the place of Celery's."""
    app = Celery("calls", set_as_current=False)
    if request.param:
        _install_stack_protection()
    yield app
    reset_worker_optimizations(app)


def nothing() -> None: ...


class Calling(Task):
    abstract = True

    def __call__(self, *args: object, **kwargs: object) -> object:
        return super().__call__(*args, **kwargs)


def test_only_a_call_of_its_own_counts(app: Celery) -> None:
    app.task(nothing, name="plain", shared=False)
    app.task(nothing, name="own", base=Calling, shared=False)
    app.finalize()
    assert (_has_own_call(app.tasks["plain"]), _has_own_call(app.tasks["own"])) == (False, True)
