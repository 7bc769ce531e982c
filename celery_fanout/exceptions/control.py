"""Errors of looking at runs and changing them by hand."""

from __future__ import annotations

from celery_fanout.exceptions.describing import did_you_mean
from celery_fanout.exceptions.root import FanoutError


class ControlError(FanoutError):
    """What was asked about a run or an event cannot be done. Nothing was changed."""


class RunNotFound(ControlError, LookupError):
    """The ledger has no such run.

    Args:
        run_id: what was asked for.
        remedy: what to do instead.
    """

    def __init__(self, run_id: str, remedy: str = "") -> None:
        super().__init__(run_id, remedy)
        self.run_id = run_id
        self.remedy = remedy or "It may have expired, or belong to another app: see fanout runs."

    def __str__(self) -> str:
        return f"The ledger has no run {self.run_id!r}. {self.remedy}"


class EventNotFound(ControlError, LookupError):
    """The ledger has no such event.

    Args:
        event: what was asked for.
        remedy: what to do instead.
    """

    def __init__(self, event: str, remedy: str = "") -> None:
        super().__init__(event, remedy)
        self.event = event
        self.remedy = (
            remedy or "It may have expired: see fanout_event_retention, and fanout events."
        )

    def __str__(self) -> str:
        return f"The ledger has no event {self.event!r}. {self.remedy}"


class WrongState(ControlError):
    """A run is not in a state in which this can be done.

    Args:
        run_id: the run.
        state: its state.
        wanted: what was to be done.
        remedy: what to do instead.
    """

    def __init__(self, run_id: str, state: str, wanted: str, remedy: str) -> None:
        super().__init__(run_id, state, wanted, remedy)
        self.run_id = run_id
        self.state = state
        self.wanted = wanted
        self.remedy = remedy

    def __str__(self) -> str:
        return f"The run {self.run_id} is {self.state} and cannot be {self.wanted}. {self.remedy}"


class WrongKind(ControlError):
    """This cannot be done with a run of this kind, but with the run that it belongs to.

    Args:
        run_id: the run.
        kind: its kind.
        wanted: what was to be done.
        remedy: what to do instead.
    """

    def __init__(self, run_id: str, kind: str, wanted: str, remedy: str) -> None:
        super().__init__(run_id, kind, wanted, remedy)
        self.run_id = run_id
        self.kind = kind
        self.wanted = wanted
        self.remedy = remedy

    def __str__(self) -> str:
        return (
            f"The run {self.run_id} is of the kind {self.kind!r} and cannot be {self.wanted}. "
            f"{self.remedy}"
        )


class ReplayContended(ControlError):
    """An event is being replayed by others, again and again.

    Args:
        event: the event's key.
    """

    def __init__(self, event: str) -> None:
        super().__init__(event)
        self.event = event

    def __str__(self) -> str:
        return (
            f"The event {self.event} is being replayed by others at the same time. Look whether "
            "what they began is what you want: see fanout show; or try again."
        )


class UnknownSubscription(ControlError, LookupError):
    """No subscription has this id.

    Args:
        subscription: what was asked for.
        nearest: the id that looks most like it, or an empty string.
    """

    def __init__(self, subscription: str, nearest: str = "") -> None:
        super().__init__(subscription, nearest)
        self.subscription = subscription
        self.nearest = nearest

    def __str__(self) -> str:
        hint = did_you_mean(self.nearest, "See fanout subscriptions.")
        return f"There is no subscription {self.subscription!r}. {hint}"


class UnknownStep(ControlError, LookupError):
    """A run has no checkpoint of this step.

    Args:
        run_id: the run.
        step: the step id asked for.
        known: the ids of the steps that it has.
    """

    def __init__(self, run_id: str, step: str, known: list[str]) -> None:
        super().__init__(run_id, step, known)
        self.run_id = run_id
        self.step = step
        self.known = known

    def __str__(self) -> str:
        have = ", ".join(repr(step) for step in self.known) or "none"
        return f"The run {self.run_id} has no stored step {self.step!r}. It has: {have}."


class UnknownLimit(ControlError, LookupError):
    """No limit has this name.

    Args:
        limit: what was asked for.
        nearest: the name that looks most like it, or an empty string.
    """

    def __init__(self, limit: str, nearest: str = "") -> None:
        super().__init__(limit, nearest)
        self.limit = limit
        self.nearest = nearest

    def __str__(self) -> str:
        hint = did_you_mean(self.nearest, "See fanout limits.")
        return f"There is no limit {self.limit!r}. {hint}"


class LimitNotTuned(ControlError, ValueError):
    """A limit cannot be changed so at run time.

    Args:
        limit: its name.
        problem: what is wrong.
        remedy: what to do instead.
    """

    def __init__(self, limit: str, problem: str, remedy: str) -> None:
        super().__init__(limit, problem, remedy)
        self.limit = limit
        self.problem = problem
        self.remedy = remedy

    def __str__(self) -> str:
        return f"The limit {self.limit!r} cannot be changed: {self.problem}. {self.remedy}"


class TooMany(ControlError):
    """A change by filter would reach more runs than the cap.

    Args:
        count: how many runs match.
        limit: the cap.
    """

    def __init__(self, count: int, limit: int) -> None:
        super().__init__(count, limit)
        self.count = count
        self.limit = limit

    def __str__(self) -> str:
        return (
            f"{self.count:,} runs or more match, and at most {self.limit:,} may be changed at "
            "once. Narrow the filter, or allow more: limit=, or --max of a command."
        )
