"""The last section: parts that are events of their own, which a run waits for."""

import proj.parts
from celery.contrib.testing.worker import start_worker

from celery_fanout import emit

app = proj.parts.app
batch = {"name": "friday", "orders": [{"id": n, "quantity": n} for n in range(350)]}
app.conf.task_default_queue = "parts"  # the page's own worker does not know proj.parts
with start_worker(app, perform_ping_check=False):
    (outcome,) = emit("orders/received", batch).get(60)
assert outcome.value == 3 * sum(range(350)), outcome
