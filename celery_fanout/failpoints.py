"""Stub."""


def hit(name: str) -> None:
    """Do nothing."""
