"""Errors of settings and stores."""

from __future__ import annotations

from typing import TYPE_CHECKING

from celery.exceptions import ImproperlyConfigured

from celery_fanout.exceptions.describing import did_you_mean
from celery_fanout.exceptions.root import FanoutError

if TYPE_CHECKING:
    from typing_extensions import Self


class ConfigurationError(FanoutError, ImproperlyConfigured):
    """The app's configuration does not allow what was asked."""


class UnknownSetting(ConfigurationError):
    """A ``fanout_*`` setting that does not exist.

    Args:
        name: the setting as the user wrote it.
        nearest: the existing setting that looks most like it, or an empty string.
    """

    def __init__(self, name: str, nearest: str = "") -> None:
        super().__init__(name, nearest)
        self.name = name
        self.nearest = nearest

    def __str__(self) -> str:
        return f"There is no setting {self.name!r}. {did_you_mean(self.nearest, 'Remove it.')}"


class InvalidSetting(ConfigurationError):
    """A setting whose value cannot be used.

    Args:
        name: the setting.
        value: a short text of the value found.
        rule: what the value must be.
    """

    def __init__(self, name: str, value: str, rule: str) -> None:
        super().__init__(name, value, rule)
        self.name = name
        self.value = value
        self.rule = rule

    def __str__(self) -> str:
        return f"{self.name} is {self.value}. It must be {self.rule}."


class StoreUnsupported(ConfigurationError):
    """The store cannot do what was asked of it.

    Args:
        store: the store or result backend, by name.
        feature: what was asked, as a noun.
        remedy: what to change.
    """

    def __init__(self, store: str, feature: str, remedy: str) -> None:
        super().__init__(store, feature, remedy)
        self.store = store
        self.feature = feature
        self.remedy = remedy

    @classmethod
    def on_level_1(cls, store: str, feature: str) -> Self:
        """Return the error of a store that can do this on level 2 only.

        Args:
            store: as above.
            feature: as above.
        """
        remedy = "It needs level 2: a Redis result backend, or fanout_store_url with a Redis URL."
        return cls(store, feature, remedy)

    def __str__(self) -> str:
        return f"{self.store} does not support {self.feature}. {self.remedy}"


class MissingExtra(ConfigurationError):
    """Something that needs a package which comes with an extra of celery-fanout only.

    Args:
        feature: what was asked for, at the beginning of a sentence.
        package: the package that is not installed.
        extra: the extra that has it.
    """

    def __init__(self, feature: str, package: str, extra: str) -> None:
        super().__init__(feature, package, extra)
        self.feature = feature
        self.package = package
        self.extra = extra

    def __str__(self) -> str:
        return (
            f"{self.feature} needs {self.package}, which is not installed. Install it with "
            f"pip install 'celery-fanout[{self.extra}]'."
        )


class NoApp(ConfigurationError):
    """There is no Celery app to emit with, or there are several and none is current.

    Args:
        apps: names of the apps in this process.
    """

    def __init__(self, apps: list[str]) -> None:
        super().__init__(apps)
        self.apps = apps

    def __str__(self) -> str:
        if not self.apps:
            return (
                "There is no Celery app in this process. Import the module that creates it, or "
                "pass app=."
            )
        return (
            f"There are several Celery apps in this process ({', '.join(self.apps)}) and none is "
            "current in this thread. Pass app=."
        )
