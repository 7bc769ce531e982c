"""Goods."""

from proj.calls import note

stock = 0


class OutOfStock(Exception):  # noqa: N818 - reads better in the guides
    """Nothing is left."""


def reserve(order):
    note(f"reserve {order['id']}")
    if not stock:
        raise OutOfStock("nothing is left")
    return "shelf 12"
