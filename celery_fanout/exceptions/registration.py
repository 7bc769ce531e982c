"""Errors of subscriptions and event types."""

from __future__ import annotations

from celery_fanout.exceptions.root import FanoutError


class RegistrationError(FanoutError):
    """A subscription or an event type that cannot be registered."""


class NotATask(RegistrationError, TypeError):
    """``on_event``, ``then=`` or ``on_failure=`` was given something that is no Celery task.

    Args:
        what: how the argument was used, for example ``"on_event"``.
        name: the object's name or repr.
        line: the line of code to write instead.
    """

    def __init__(self, what: str, name: str, line: str) -> None:
        super().__init__(what, name, line)
        self.what = what
        self.name = name
        self.line = line

    def __str__(self) -> str:
        return f"{self.what} needs a Celery task, and {self.name} is not one. {self.line}"


class InvalidPattern(RegistrationError, ValueError):
    """A subscription's pattern that matches nothing that could be emitted.

    Args:
        pattern: the pattern as written.
    """

    def __init__(self, pattern: str) -> None:
        super().__init__(pattern)
        self.pattern = pattern

    def __str__(self) -> str:
        return (
            f"{self.pattern!r} is no event pattern. Use an event name such as 'document/uploaded', "
            "a name that ends in '*' after '/' or '.', such as 'document/*', or '*' alone."
        )


class InvalidSubscription(RegistrationError, ValueError):
    """A subscription with an option or a task signature that cannot work.

    Args:
        subject: the subscription or the task.
        problem: what is wrong.
        remedy: what to change.
    """

    def __init__(self, subject: str, problem: str, remedy: str) -> None:
        super().__init__(subject, problem, remedy)
        self.subject = subject
        self.problem = problem
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.subject} {self.problem}. {self.remedy}"


class InvalidEventType(RegistrationError, ValueError):
    """A class that ``event_type`` cannot register, or that was never registered.

    Args:
        name: the class.
        problem: what is wrong.
        remedy: what to change.
    """

    def __init__(self, name: str, problem: str, remedy: str) -> None:
        super().__init__(name, problem, remedy)
        self.name = name
        self.problem = problem
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.name} {self.problem}. {self.remedy}"


class DuplicateEventType(RegistrationError):
    """Two classes were registered for one event name.

    Args:
        name: the event name.
        first: the class registered first.
        second: the class refused.
    """

    def __init__(self, name: str, first: str, second: str) -> None:
        super().__init__(name, first, second)
        self.name = name
        self.first = first
        self.second = second

    def __str__(self) -> str:
        return (
            f"The event {self.name!r} already has the type {self.first}, so {self.second} cannot "
            "be its type too. Give one of them another event name."
        )


class EmitWhileImporting(RegistrationError):
    """An event was emitted while the app's task modules are being imported.

    Not all subscribers are known at that moment.

    Args:
        app: the app's name.
    """

    def __init__(self, app: str) -> None:
        super().__init__(app)
        self.app = app

    def __str__(self) -> str:
        return (
            f"An event was emitted while the task modules of the app {self.app!r} are being "
            "imported, so not all its subscribers are known yet. Emit it in a function that is "
            "called later."
        )


class DuplicateSubscription(RegistrationError):
    """One task subscribed twice with the same pattern.

    Args:
        subscription: the subscription id.
        first: where the first was declared.
        second: where the second was declared.
    """

    def __init__(self, subscription: str, first: str, second: str) -> None:
        super().__init__(subscription, first, second)
        self.subscription = subscription
        self.first = first
        self.second = second

    def __str__(self) -> str:
        return (
            f"{self.subscription} is subscribed twice: at {self.first} and at {self.second}. "
            "Remove one, or join their filters."
        )
