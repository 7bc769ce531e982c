"""Every error of celery-fanout, with its message: the problem first, then the remedy.

A file for each part of the package that raises them, and ``describing``, which makes texts. Those
that only a Django project meets are in :mod:`celery_fanout.contrib.django.exceptions`.

May import nothing else of the package.
Public: the names in ``__all__``. The modules inside may change without notice.

::

    CeleryError
     └── FanoutError
          ├── ConfigurationError (ImproperlyConfigured)
          │    ├── UnknownSetting
          │    ├── InvalidSetting
          │    ├── MissingExtra
          │    ├── NoApp
          │    └── StoreUnsupported
          ├── RegistrationError
          │    ├── NotATask (TypeError)
          │    ├── InvalidPattern (ValueError)
          │    ├── InvalidSubscription (ValueError)
          │    ├── InvalidEventType (ValueError)
          │    ├── DuplicateEventType
          │    ├── EmitWhileImporting
          │    └── DuplicateSubscription
          ├── InvalidEvent (ValueError)
          │    ├── InvalidEventName
          │    ├── InvalidEventData
          │    └── EventTooLarge
          ├── EmitError
          ├── DeliveryUnsupported
          ├── NotPublishedYet
          ├── ControlError
          │    ├── RunNotFound (LookupError)
          │    ├── EventNotFound (LookupError)
          │    ├── WrongState
          │    ├── WrongKind
          │    ├── ReplayContended
          │    ├── UnknownSubscription (LookupError)
          │    ├── UnknownStep (LookupError)
          │    ├── UnknownLimit (LookupError)
          │    ├── LimitNotTuned (ValueError)
          │    └── TooMany
          ├── EmissionTimeout (celery.exceptions.TimeoutError)
          ├── StoreUnavailable (Ignore)
          │    └── StoreRefused
          ├── Superseded (Ignore)
          ├── RunFailed
          ├── StepError
          │    ├── StepMisused (Ignore)
          │    │    ├── InvalidStep (ValueError)
          │    │    ├── NestedStep
          │    │    ├── SleepTooLong
          │    │    └── StepTimeoutUnsupported
          │    ├── StepTimeout (TimeoutError)
          │    └── StepFailed (Ignore)
          ├── RetryAfter (Ignore)
          └── NonRetriable (Ignore)
    UserWarning
     └── FanoutWarning
          ├── NotDurableWarning
          ├── StepOrderWarning
          ├── StepValueWarning
          └── SwallowedSuspensionWarning

Constructors take data and the class builds the message, so that an error survives pickling and
Celery's JSON result backends: both rebuild it from ``args``.

What must pass Celery's ``autoretry_for=(Exception,)`` untouched derives from
:class:`celery.exceptions.Ignore`, the only family that it lets through besides ``Retry``; the
wrapper around a subscriber's body translates it (see :mod:`celery_fanout.running.wrapping`).
"""

from __future__ import annotations

from celery_fanout.exceptions.configuration import (
    ConfigurationError,
    InvalidSetting,
    MissingExtra,
    NoApp,
    StoreUnsupported,
    UnknownSetting,
)
from celery_fanout.exceptions.control import (
    ControlError,
    EventNotFound,
    LimitNotTuned,
    ReplayContended,
    RunNotFound,
    TooMany,
    UnknownLimit,
    UnknownStep,
    UnknownSubscription,
    WrongKind,
    WrongState,
)
from celery_fanout.exceptions.describing import describe
from celery_fanout.exceptions.emission import (
    DeliveryUnsupported,
    EmissionTimeout,
    EmitError,
    EventTooLarge,
    InvalidEvent,
    InvalidEventData,
    InvalidEventName,
    NotPublishedYet,
)
from celery_fanout.exceptions.registration import (
    DuplicateEventType,
    DuplicateSubscription,
    EmitWhileImporting,
    InvalidEventType,
    InvalidPattern,
    InvalidSubscription,
    NotATask,
    RegistrationError,
)
from celery_fanout.exceptions.root import FanoutError
from celery_fanout.exceptions.runs import (
    INTERRUPTS,
    InvalidStep,
    NestedStep,
    NonRetriable,
    RetryAfter,
    RunFailed,
    SleepTooLong,
    StepError,
    StepFailed,
    StepMisused,
    StepTimeout,
    StepTimeoutUnsupported,
    StoreRefused,
    StoreUnavailable,
    Superseded,
)
from celery_fanout.exceptions.warnings import (
    FanoutWarning,
    NotDurableWarning,
    StepOrderWarning,
    StepValueWarning,
    SwallowedSuspensionWarning,
)

__all__ = [
    "INTERRUPTS",
    "ConfigurationError",
    "ControlError",
    "DeliveryUnsupported",
    "DuplicateEventType",
    "DuplicateSubscription",
    "EmissionTimeout",
    "EmitError",
    "EmitWhileImporting",
    "EventNotFound",
    "EventTooLarge",
    "FanoutError",
    "FanoutWarning",
    "InvalidEvent",
    "InvalidEventData",
    "InvalidEventName",
    "InvalidEventType",
    "InvalidPattern",
    "InvalidSetting",
    "InvalidStep",
    "InvalidSubscription",
    "LimitNotTuned",
    "MissingExtra",
    "NestedStep",
    "NoApp",
    "NonRetriable",
    "NotATask",
    "NotDurableWarning",
    "NotPublishedYet",
    "RegistrationError",
    "ReplayContended",
    "RetryAfter",
    "RunFailed",
    "RunNotFound",
    "SleepTooLong",
    "StepError",
    "StepFailed",
    "StepMisused",
    "StepOrderWarning",
    "StepTimeout",
    "StepTimeoutUnsupported",
    "StepValueWarning",
    "StoreRefused",
    "StoreUnavailable",
    "StoreUnsupported",
    "Superseded",
    "SwallowedSuspensionWarning",
    "TooMany",
    "UnknownLimit",
    "UnknownSetting",
    "UnknownStep",
    "UnknownSubscription",
    "WrongKind",
    "WrongState",
    "describe",
]

# their public home: Celery's result backends store where an error lives, and users read it
for _name in __all__:
    if isinstance(globals()[_name], type):
        globals()[_name].__module__ = __name__
