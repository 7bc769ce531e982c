"""What the modules beside this one were asked to do, for tests/docs/expect."""

CALLS: list[str] = []


def note(what: str) -> None:
    CALLS.append(what)


def taken() -> list[str]:
    """Return what was noted since the last time."""
    found = list(CALLS)
    CALLS.clear()
    return found
