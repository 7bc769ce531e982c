"""What only a Django project can listen to, beside :mod:`celery_fanout.signals`.

Public: the names in ``__all__``.
"""

from __future__ import annotations

from celery.utils.dispatch import Signal

__all__ = ["event_publish_failed"]

#: Events could not be published after their transaction had committed. ``sender``: the Celery app;
#: ``events``: the :class:`~celery_fanout.Event` objects; ``exception``; ``kept``: whether they are
#: in the outbox now (``fanout_on_publish_error = "outbox"``), else they are lost unless you see to
#: them: ``emit(event, delivery="now")`` again is safe.
event_publish_failed = Signal(
    name="event_publish_failed", providing_args=["events", "exception", "kept"]
)
