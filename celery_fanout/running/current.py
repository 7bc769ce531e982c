"""What the code of a subscriber can ask about the run it is in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celery import _state
from celery._state import get_current_task

from celery_fanout.exceptions.configuration import NoApp
from celery_fanout.model.run import Run, run_of
from celery_fanout.running.execution import current_execution

if TYPE_CHECKING:
    from celery_fanout.model.events import Event


def current_run() -> Run | None:
    """Return the run that the calling code belongs to, or ``None`` outside of runs."""
    execution = current_execution.get()
    if execution is not None:
        return execution.run
    # hooks such as Task.before_start and on_failure run outside the body
    task: Any = get_current_task()
    return None if task is None else run_of(task, task.request)


def current_event() -> Event | None:
    """Return the event that the calling code handles, or ``None`` outside of runs."""
    run = current_run()
    return run.event if run is not None else None


def app_in_use() -> Any:
    """Return the app of the run, the current one, or the only one of the process.

    Raises:
        NoApp: if there is none, or several and none is current.
    """
    # Celery(...) makes an app current for its own thread only. In the other threads of a web
    # server celery.current_app is a made-up app without tasks, named "default".
    state: Any = _state
    execution = current_execution.get()
    if execution is not None:
        return execution.task.app
    app = state._tls.current_app or state.default_app
    if app is not None and not _is_made_up(app):
        return app
    apps = [app for app in state._get_active_apps() if not _is_made_up(app)]
    if len(apps) == 1:
        return apps[0]
    raise NoApp(sorted(str(app.main) for app in apps))


def _is_made_up(app: Any) -> bool:
    return app.main == "default" and not app.set_as_current
