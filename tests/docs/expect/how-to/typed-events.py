# ruff: noqa: F821 - the names are those of the page
from celery_fanout.testing import run

data = {"order_id": 17, "total": 120.0, "coupon": None}
assert emission.event.data == data
assert run(send_receipt, data).value == "receipt over 120.0"
assert run(ship, data).value == "order 17 is shipped"
