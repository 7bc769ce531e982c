from celery_fanout import get_fanout
from celery_fanout.contrib.django.models import OutboxEvent
from tests.processes import wait_until

wait_until(lambda: not OutboxEvent.objects.exists())
assert sum(get_fanout().runs.counts().values()) == 2
