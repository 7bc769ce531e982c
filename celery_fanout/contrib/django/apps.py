"""What happens when Django starts."""

from __future__ import annotations

from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _

__all__ = ["FanoutConfig"]


class FanoutConfig(AppConfig):
    """The Django app, with the label ``celery_fanout``."""

    name = "celery_fanout.contrib.django"
    label = "celery_fanout"
    verbose_name = _("Event fan-out")
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Attach emitting to transactions."""
        # with the models, which Django has loaded by now
        from celery_fanout.contrib.django.publication import install

        install()
