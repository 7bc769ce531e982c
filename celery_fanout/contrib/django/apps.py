"""What happens when Django starts."""

from __future__ import annotations

from typing import ClassVar

from django.apps import AppConfig
from django.utils.module_loading import autodiscover_modules
from django.utils.translation import gettext_lazy as _

from celery_fanout.contrib.django.django_tasks import adapt
from celery_fanout.subscribing.on_event import task_adapters

__all__ = ["FanoutConfig"]

# here, not in ready(): models may import subscribers
if adapt not in task_adapters:
    task_adapters.append(adapt)


class FanoutConfig(AppConfig):
    """The Django app, with the label ``celery_fanout``.

    Attributes:
        discovers: modules of the installed apps that are imported when Django starts, in web
            processes and workers alike: whoever emits must know the subscribers. To have others,
            name a subclass of this class in ``INSTALLED_APPS``.
    """

    discovers: ClassVar[tuple[str, ...]] = ("events", "subscribers", "tasks")

    name = "celery_fanout.contrib.django"
    label = "celery_fanout"
    verbose_name = _("Event fan-out")
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Attach emitting to transactions, register the checks, and import subscribers."""
        # with the models, which Django has loaded by now
        from celery_fanout.contrib.django import checks
        from celery_fanout.contrib.django.delivery import install

        install()
        checks.install()
        for module in self.discovers:  # the events of all apps first
            autodiscover_modules(module)
