from __future__ import annotations

from celery import shared_task

from celery_fanout import on_event
from tests.contrib.django.catalog.events import CatalogOpened
from tests.contrib.django.shop.tasks import note


@on_event(CatalogOpened)
@shared_task
def greet(data):
    note("run", task="greet", data=data)
