"""Money."""

from proj.calls import note


def charge(order, idempotency_key=None):
    note(f"charge {idempotency_key}")
    return {"payment": "p-1", "order": order["id"]}


def refund(payment):
    note(f"refund {payment['payment']}")
