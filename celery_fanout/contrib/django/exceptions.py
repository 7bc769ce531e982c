"""The errors that only a Django project meets, each with its message.

Public: the names in ``__all__``.

::

    FanoutError
     ├── ConfigurationError (ImproperlyConfigured)
     │    └── InvalidWebhook (ValueError)
     ├── RegistrationError
     │    └── InvalidModelEvents (ValueError)
     ├── TransactionError
     │    ├── NotInTransaction
     │    ├── NoCommitToWaitFor
     │    └── NoOutbox
     └── UnreadableRow
"""

from __future__ import annotations

from celery_fanout.exceptions import ConfigurationError, FanoutError, RegistrationError

__all__ = [
    "InvalidModelEvents",
    "InvalidWebhook",
    "NoCommitToWaitFor",
    "NoOutbox",
    "NotInTransaction",
    "TransactionError",
    "UnreadableRow",
]


class InvalidModelEvents(RegistrationError, ValueError):
    """Events of a Django model that cannot be emitted as they were asked for.

    Args:
        model: the model.
        problem: what is wrong.
        remedy: what to change.
    """

    def __init__(self, model: str, problem: str, remedy: str) -> None:
        super().__init__(model, problem, remedy)
        self.model = model
        self.problem = problem
        self.remedy = remedy

    def __str__(self) -> str:
        return f"The model {self.model} {self.problem}. {self.remedy}"


class InvalidWebhook(ConfigurationError, ValueError):
    """A webhook view that could not do its work.

    Args:
        what: the view or the verifier, by name.
        problem: what is wrong. Never a secret.
        remedy: what to change.
    """

    def __init__(self, what: str, problem: str, remedy: str) -> None:
        super().__init__(what, problem, remedy)
        self.what = what
        self.problem = problem
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.what} {self.problem}. {self.remedy}"


class TransactionError(FanoutError):
    """An event cannot be published together with a database's transaction.

    Args:
        name: the event's name.
        using: the alias of the database.
    """

    def __init__(self, name: str, using: str) -> None:
        super().__init__(name, using)
        self.name = name
        self.using = using


class NotInTransaction(TransactionError):
    """An event for the outbox was emitted outside of a transaction."""

    def __str__(self) -> str:
        return (
            f"The event {self.name!r} was emitted into the outbox outside of a transaction on the "
            f"database {self.using!r}, where it could be kept though what it tells of is not. Emit "
            f"it in a block of transaction.atomic(using={self.using!r}), together with what "
            "happened; or set fanout_outbox_require_atomic to False."
        )


class NoCommitToWaitFor(TransactionError):
    """An event was to wait for a commit, on a connection whose commits Django does not see."""

    def __str__(self) -> str:
        return (
            f"The event {self.name!r} was to be published when the transaction on the database "
            f"{self.using!r} commits, but autocommit is off there, and Django tells nobody of such "
            f"commits. Turn it on and emit in a block of transaction.atomic(using={self.using!r}), "
            'or emit with delivery="outbox"; or with delivery="now" after the commit.'
        )


class NoOutbox(TransactionError):
    """An event was emitted into the outbox of a database that has no table for it."""

    def __str__(self) -> str:
        return (
            f"The event {self.name!r} was emitted into the outbox of the database {self.using!r}, "
            "which has no table for it. Run: manage.py migrate celery_fanout --database "
            f"{self.using}"
        )


class UnreadableRow(FanoutError):
    """A row of the outbox that this process cannot publish.

    Args:
        row: the row's primary key.
        problem: what is wrong with it.
        remedy: what to change.
    """

    def __init__(self, row: object, problem: str, remedy: str) -> None:
        super().__init__(row, problem, remedy)
        self.row = row
        self.problem = problem
        self.remedy = remedy

    def __str__(self) -> str:
        return f"Row {self.row} of the outbox {self.problem}. {self.remedy}"
