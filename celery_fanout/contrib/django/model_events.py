"""Events from Django's model signals, for models that were named, with fields that were named.

::

    from celery_fanout.contrib.django.model_events import emit_model_events

    emit_model_events(Order, fields=["number", "status"])

Django sends those signals from ``Model.save()`` and ``Model.delete()``, and from what calls them:
``objects.create()``, ``get_or_create()``, ``update_or_create()``, forms and the admin. It sends
none, and so nothing is emitted, for

* ``bulk_create()``, ``bulk_update()`` and ``QuerySet.update()``;
* SQL of your own, other programs, triggers and cascades of the database;
* rows of a many-to-many field, for which Django has the signal ``m2m_changed``.

``QuerySet.delete()`` does emit, also for what it deletes by a cascade: Django deletes without
signals only where nobody receives them. So it loads the rows first.
"""

from __future__ import annotations

import datetime as dt
import inspect
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast

from django.core.exceptions import FieldDoesNotExist, ValidationError
from django.db.models import BinaryField, Model
from django.db.models.fields.files import FieldFile
from django.db.models.signals import (
    class_prepared,
    post_delete,
    post_save,
    pre_delete,
    pre_save,
)
from django.utils.duration import duration_iso_string

from celery_fanout.app.api import emit
from celery_fanout.contrib.django.exceptions import InvalidModelEvents
from celery_fanout.exceptions.describing import did_you_mean, nearest
from celery_fanout.model.events import check_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from celery import Celery

    from celery_fanout.app.api import Delivery

    Operation: TypeAlias = Literal["created", "updated", "deleted"]

__all__ = ["ModelEvents", "emit_model_events"]

OPERATIONS = ("created", "updated", "deleted")

#: What else is in an event's data.
_RESERVED = {"pk", "changed"}

_emitted: dict[str, ModelEvents] = {}


def emit_model_events(
    model: type[Model],
    *,
    fields: Iterable[str] = (),
    on: Iterable[Operation] | Operation = ("created", "updated", "deleted"),
    prefix: str | None = None,
    when: Callable[[Any], object] | None = None,
    track_changes: bool = False,
    delivery: Delivery | None = None,
    app: Celery | None = None,
) -> ModelEvents:
    """Emit an event whenever an instance of a model is created, updated or deleted.

    Call it once, in an app's ``events.py`` or ``AppConfig.ready()``. The event is named
    ``{prefix}.created``, ``{prefix}.updated`` or ``{prefix}.deleted``. Its data are ``pk`` and the
    fields that are named, and its subject is the primary key. It goes through
    :func:`~celery_fanout.emit`, with the database that was written to as ``using``, so an event is
    published after the commit, or with its transaction goes into the outbox.

    Nothing is emitted for fixtures (``loaddata``), nor for ``save(update_fields=...)`` that writes
    none of the fields. Django sends no signals for ``bulk_create()``, ``bulk_update()``,
    ``QuerySet.update()``, SQL of your own, cascades of the database and many-to-many fields.

    Args:
        model: a model with a table of its own. Its proxies count as the model; a model that
            inherits from it (multi-table inheritance) does not, except that Django deletes and
            sends ``deleted`` for the parent's row too.
        fields: names of the fields in the data; of a foreign key, the value is the key. By default
            none.
        on: what is emitted: ``"created"``, ``"updated"``, ``"deleted"``.
        prefix: what the names begin with; ``{app label}/{model name}`` by default, such as
            ``shop/order``.
        when: called with the instance, before a deletion and after a change; without a true value
            nothing is emitted.
        track_changes: adds ``changed`` to the data of ``updated``: the fields that have another
            value than before, each with ``old`` and ``new``. An update that changes none of them
            emits nothing. What was before is read from the database, with one query per update.
        delivery: as of :func:`~celery_fanout.emit`.
        app: the Celery app; the current one by default.

    Returns:
        What was set up; its ``disconnect()`` ends it.

    Raises:
        InvalidModelEvents: if model, fields or operations cannot be, or if the same events are
            emitted already.
        InvalidEventName: if the prefix cannot begin a name.
    """
    frame: Any = sys._getframe(1)  # pyright: ignore[reportPrivateUsage]
    where = f"{frame.f_code.co_filename}:{frame.f_lineno}"
    named: Any = model  # not everybody runs a type checker
    _check_model(named)
    meta = named._meta
    events = ModelEvents(
        named,
        meta.label_lower.replace(".", "/") if prefix is None else prefix,
        {name: _field(meta, name) for name in fields},
        _operations(meta.label, on),
    )
    events.when, events.where, events.options = when, where, {"delivery": delivery, "app": app}
    if track_changes and not events.fields:
        raise InvalidModelEvents(meta.label, "tracks changes of no fields", "Name them in fields=.")
    events.track_changes = track_changes
    events.connect()
    return events


class ModelEvents:
    """The events of one model; made by :func:`emit_model_events`.

    Attributes:
        model: the model.
        names: the names of the events, by operation.
    """

    def __init__(
        self, model: type[Model], prefix: str, fields: dict[str, Any], on: Sequence[str]
    ) -> None:
        self.model: Any = model
        self.names = {operation: check_name(f"{prefix}.{operation}") for operation in on}
        self.fields = fields
        self.when: Callable[[Any], object] | None = None
        self.track_changes = False
        self.options: dict[str, Any] = {}
        self.where = ""
        # on the instance, from before a change until after it
        self._attribute = f"_celery_fanout_{id(self)}"

    def __repr__(self) -> str:
        return f"<ModelEvents {self.model._meta.label}: {', '.join(self.names.values())}>"

    def connect(self) -> None:
        """Begin to emit.

        Raises:
            InvalidModelEvents: if another one emits events of these names.
        """
        for earlier in [_emitted[name] for name in self.names.values() if name in _emitted]:
            if earlier.where != self.where:
                names = ", ".join(sorted({*earlier.names.values()} & {*self.names.values()}))
                raise InvalidModelEvents(
                    self.model._meta.label,
                    f"emits {names}, which {earlier.model._meta.label} emits already, from "
                    f"{earlier.where}",
                    "Remove one of the two, or give it another prefix=.",
                )
            earlier.disconnect()  # its module was reloaded
        _emitted.update(dict.fromkeys(self.names.values(), self))
        for sender in _with_proxies(self.model):
            self._connect(sender)
        class_prepared.connect(self._on_class, weak=False)

    def disconnect(self) -> None:
        """Emit nothing more."""
        for name in self.names.values():
            if _emitted.get(name) is self:
                del _emitted[name]
        class_prepared.disconnect(self._on_class)
        for sender in _with_proxies(self.model):
            for signal, receiver in self._receivers():
                signal.disconnect(receiver, sender=sender)

    def _receivers(self) -> list[tuple[Any, Any]]:
        pairs: list[tuple[Any, Any]] = []
        if "created" in self.names or "updated" in self.names:
            pairs.append((post_save, self._after_save))
            if self.track_changes:
                pairs.append((pre_save, self._before_save))
        if "deleted" in self.names:
            pairs += [(pre_delete, self._before_delete), (post_delete, self._after_delete)]
        return pairs

    def _connect(self, sender: Any) -> None:
        for signal, receiver in self._receivers():
            signal.connect(receiver, sender=sender, weak=False)

    def _on_class(self, sender: Any, **_: Any) -> None:
        if sender._meta.proxy and sender._meta.concrete_model is self.model:
            self._connect(sender)

    # -- receivers ---------------------------------------------------------------------------------

    def _before_save(
        self, *, instance: Any, raw: bool, using: str, update_fields: Any, **_: Any
    ) -> None:
        if not raw:
            inserts = instance._state.adding and (instance.pk is None or _has_default(self.model))
            looks = not inserts and self._is_touched_by(update_fields)
            self._keep(instance, self._read(instance, using, self.fields) if looks else None)

    def _after_save(
        self,
        *,
        instance: Any,
        created: bool,
        raw: bool,
        using: str,
        update_fields: Any,
        **_: Any,
    ) -> None:
        if raw:  # a fixture: what it refers to may not be there yet
            return
        before = self._kept(instance) if self.track_changes else None
        operation = "created" if created else "updated"
        if operation not in self.names or not self._is_touched_by(update_fields):
            return
        if self.when is not None and not self.when(instance):
            return
        data = self._data(instance, using, update_fields)
        if self.track_changes and not created:
            old: dict[str, Any] = before or {}
            changed: dict[str, Any] = {
                name: {"old": old.get(name), "new": data[name]}
                for name in self.fields
                if name not in old or old[name] != data[name]
            }
            if not changed:
                return
            data["changed"] = changed
        self._emit(operation, data, using)

    def _before_delete(self, instance: Any, using: str, **_: Any) -> None:
        emits = self.when is None or self.when(instance)
        self._keep(instance, self._data(instance, using) if emits else None)

    def _after_delete(self, instance: Any, using: str, **_: Any) -> None:
        data = self._kept(instance)
        if data is not None:
            self._emit("deleted", data, using)

    def _keep(self, instance: Any, value: Any) -> None:
        # a stack: a receiver may save the same instance again
        stacks: dict[str, list[Any]] = instance.__dict__
        stacks.setdefault(self._attribute, []).append(value)

    def _kept(self, instance: Any) -> Any:
        stacks: dict[str, list[Any]] = instance.__dict__
        kept = stacks.get(self._attribute)
        if not kept:  # connected in between
            return None
        value = kept.pop()
        if not kept:
            del stacks[self._attribute]
        return value

    # -- data --------------------------------------------------------------------------------------

    def _is_touched_by(self, update_fields: Any) -> bool:
        """Whether a save writes one of the fields; with none, whatever it writes."""
        if update_fields is None or not self.fields:
            return True
        return any(_is_named(field, update_fields) for field in self.fields.values())

    def _data(self, instance: Any, using: str, written: Any = None) -> dict[str, Any]:
        """Return an event's data: of the instance, unless the database must know better."""
        deferred = instance.get_deferred_fields()
        values: dict[str, Any] = {}
        missing: dict[str, Any] = {}
        for name, field in self.fields.items():
            is_there = field.attname not in deferred and not field.generated
            if is_there and (written is None or _is_named(field, written)):
                value = field.value_from_object(instance)
                if not hasattr(value, "resolve_expression"):  # F("total") + 1
                    values[name] = _plain(field, value)
                    continue
            missing[name] = field
        if missing:
            values.update(self._read(instance, using, missing) or dict.fromkeys(missing))
        return {"pk": instance.pk, **{name: values[name] for name in self.fields}}

    def _read(self, instance: Any, using: str, fields: dict[str, Any]) -> dict[str, Any] | None:
        rows = self.model._base_manager.using(using).filter(pk=instance.pk)
        for row in rows.values(*(field.attname for field in fields.values()))[:1]:
            return {name: _plain(field, row[field.attname]) for name, field in fields.items()}
        return None

    def _emit(self, operation: str, data: dict[str, Any], using: str) -> None:
        subject = None if isinstance(data["pk"], tuple) else str(data["pk"])
        emit(self.names[operation], data, subject=subject, using=using, **self.options)


def _with_proxies(model: Any) -> list[Any]:
    # Django sends the signals of a proxy's instances for the proxy
    models = [model]
    for child in model.__subclasses__():
        if child._meta.proxy:
            models += _with_proxies(child)
    return models


def _has_default(model: Any) -> bool:
    """Whether Django inserts an instance that has a primary key, without looking for its row."""
    return bool(model._meta.pk.has_default() or model._meta.pk.has_db_default())


def _is_named(field: Any, names: Any) -> bool:
    return field.name in names or field.attname in names


def _plain(field: Any, value: Any) -> Any:
    """Return a value as the field has it, and as an event can carry it."""
    if isinstance(value, FieldFile):
        return value.name or ""
    with suppress(ValidationError):  # otherwise as it was assigned
        value = field.to_python(value)
    if isinstance(value, dt.timedelta):
        return duration_iso_string(value)
    return value


# -- what is refused -------------------------------------------------------------------------------


def _check_model(model: Any) -> None:
    if not (inspect.isclass(model) and issubclass(model, Model)):
        raise InvalidModelEvents(repr(model), "is no model", "Pass the class.")
    meta = cast("Any", model)._meta
    if meta.abstract:
        problem, remedy = "is abstract, and has no rows", "Name the models that inherit from it."
    elif meta.proxy:
        concrete = meta.concrete_model._meta.label
        problem = "is a proxy, and its rows are those of another model"
        remedy = f"Name {concrete}; when= can tell its rows apart."
    elif meta.swapped:
        problem, remedy = f"was swapped for {meta.swapped}", "Name that one: get_user_model()."
    elif meta.auto_created:
        problem = "is the table of a many-to-many field, and Django sends no signals for its rows"
        remedy = "Receive m2m_changed and emit there, or give the field a through= model."
    else:
        return
    raise InvalidModelEvents(meta.label, problem, remedy)


def _field(meta: Any, name: str) -> Any:
    if name in _RESERVED:
        raise InvalidModelEvents(
            meta.label,
            f"cannot have {name!r} in fields=",
            "The data have the primary key as 'pk' already, and 'changed' with track_changes.",
        )
    try:
        field = meta.get_field(name)
    except FieldDoesNotExist:
        names = [field.name for field in meta.concrete_fields]
        remedy = did_you_mean(nearest(name, names), f"It has {', '.join(names)}.")
        raise InvalidModelEvents(meta.label, f"has no field {name!r}", remedy) from None
    if not field.concrete or field.many_to_many:
        raise InvalidModelEvents(
            meta.label,
            f"keeps {name!r} in no column of its own, and Django sends no signal when it changes",
            "Name fields with a column; for a many-to-many field, receive m2m_changed.",
        )
    if isinstance(field, BinaryField):
        raise InvalidModelEvents(
            meta.label,
            f"has bytes in {name!r}, and JSON has none",
            "Leave it out: a subscriber can read it from the database.",
        )
    return field


def _operations(label: str, on: Any) -> list[str]:
    operations = [on] if isinstance(on, str) else list(on)
    for operation in operations:
        if operation not in OPERATIONS:
            near = nearest(str(operation), OPERATIONS)
            remedy = did_you_mean(near, "Use 'created', 'updated' and 'deleted'.")
            raise InvalidModelEvents(label, f"has no operation {operation!r}", remedy)
    if not operations:
        raise InvalidModelEvents(label, "emits nothing", "Name an operation in on=.")
    return operations
