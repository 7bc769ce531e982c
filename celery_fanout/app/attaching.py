"""How this package attaches itself to every Celery app of the process.

Importing any module of the package does it, so this file imports nothing but Celery: what the
callbacks need is imported when Celery calls them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celery import _state, signals

if TYPE_CHECKING:
    from celery import Celery

    from celery_fanout.app.fanout import Fanout


def attach() -> None:
    """Attach to all apps, those that are made later too."""
    state: Any = _state
    state.connect_on_app_finalize(_on_finalize)
    for app in list(state._get_active_apps()):
        if app.finalized:  # and will not call what was connected now
            _fanout_of(app).registry.refresh()
    signals.worker_init.connect(_on_worker_init, weak=False)
    signals.task_failure.connect(_on_failure, weak=False)
    signals.task_revoked.connect(_on_revoked, weak=False)
    signals.task_unknown.connect(_on_unknown, weak=False)


def _fanout_of(app: Celery) -> Fanout:
    from celery_fanout.app.fanout import get_fanout

    return get_fanout(app)


def _on_finalize(app: Celery) -> None:
    # finalisers run in no order, perhaps before those of shared tasks; this signal comes last
    app.on_after_finalize.connect(_refresh, weak=False)
    app.steps["worker"].add("celery_fanout.app.bootstep:KeeperStep")


def _refresh(sender: Celery | None = None, **_: Any) -> None:
    if sender is not None:
        _fanout_of(sender).registry.refresh()


def _on_worker_init(sender: Any, **_: Any) -> None:
    from celery_fanout.model.boot import new_boot

    # tasks that were registered without a new declaration, such as classes; and those whose
    # subscription was removed while runs of theirs are still under way
    new_boot()
    _fanout_of(sender.app).prepare_worker()


def _on_failure(sender: Any = None, exception: Any = None, **_: Any) -> None:
    _supervise(sender.app, "failed", sender.request, exception)


def _on_revoked(sender: Any = None, request: Any = None, expired: bool = False, **_: Any) -> None:  # noqa: FBT001, FBT002 - Celery's
    _supervise(sender.app, "revoked", request, expired=bool(expired))


def _on_unknown(sender: Any = None, message: Any = None, id: Any = None, **_: Any) -> None:
    _supervise(sender.app, "unknown", message, str(id))


def _supervise(app: Celery, what: str, *args: Any, **kwargs: Any) -> None:
    level2 = _fanout_of(app).level2
    if level2 is not None:
        getattr(level2.supervisor, what)(*args, **kwargs)
