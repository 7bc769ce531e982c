"""Events from model signals: what is emitted for which change, and what is refused."""

from __future__ import annotations

import datetime as dt
import json
import pickle
import re
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from typing import Any

import pytest

from tests.contrib.django.inside import INSIDE, django_process, in_django

if INSIDE:
    from asgiref.sync import async_to_sync
    from django.contrib.auth import get_user_model
    from django.contrib.auth.signals import user_logged_in
    from django.core import serializers
    from django.db import connection, models, transaction
    from django.db.models import F
    from django.db.models.signals import post_save
    from django.test import Client
    from django.test.utils import CaptureQueriesContext, isolate_apps

    from celery_fanout import emit
    from celery_fanout.contrib.django.exceptions import InvalidModelEvents
    from celery_fanout.contrib.django.model_events import ModelEvents, emit_model_events
    from celery_fanout.emitting.delivery import installed
    from celery_fanout.exceptions import InvalidEventName
    from celery_fanout.testing import capture
    from tests.contrib.django.catalog.models import Bargain, Book, Maker, Product, Timed, Voucher

__all__ = ["django_process"]


@contextmanager
def emitting(model: Any, **options: Any) -> Iterator[list[tuple[str, Any]]]:
    """Emit events of a model in a block; give the names and data of all that are emitted."""
    bridge = emit_model_events(model, **options)
    found: list[tuple[str, Any]] = []
    try:
        with capture() as events:
            yield found
            found += [(event.name, event.data) for event in events]
    finally:
        bridge.disconnect()


@contextmanager
def captured() -> Iterator[list[tuple[str, Any]]]:
    """Give the names and data of all that is emitted in the block, after it."""
    found: list[tuple[str, Any]] = []
    with capture() as events:
        yield found
        found += [(event.name, event.data) for event in events]


def is_equal(found: object, expected: object) -> None:
    assert found == expected, f"\n{found!r}\nis not\n{expected!r}"


# --- what is emitted -----------------------------------------------------------------------------


@in_django
def test_created_updated_and_deleted():
    with emitting(Product, fields=["name", "price"]) as found:
        product = Product.objects.create(name="cup", price=Decimal("1.50"))
        pk = product.pk
        product.name = "mug"
        product.save()
        product.delete()
    is_equal(
        found,
        [
            ("catalog/product.created", {"pk": pk, "name": "cup", "price": "1.50"}),
            ("catalog/product.updated", {"pk": pk, "name": "mug", "price": "1.50"}),
            ("catalog/product.deleted", {"pk": pk, "name": "mug", "price": "1.50"}),
        ],
    )


@in_django
def test_the_subject_is_the_primary_key():
    bridge = emit_model_events(Voucher)
    with capture() as events:
        voucher = Voucher.objects.create()
    bridge.disconnect()
    is_equal([event.subject for event in events], [str(voucher.pk)])
    is_equal(events[0].data, {"pk": str(voucher.pk)})


@in_django
def test_a_prefix_and_chosen_operations():
    with emitting(Maker, prefix="crm/firm", on="created") as found:
        maker = Maker.objects.create(name="a")
        maker.save()
        maker.delete()
    is_equal([name for name, _ in found], ["crm/firm.created"])


@in_django
def test_only_what_meets_the_condition():
    with emitting(Product, fields=["name"], when=lambda product: product.stock > 0) as found:
        empty = Product.objects.create(name="empty")
        full = Product.objects.create(name="full", stock=1)
        empty.delete()
        full.delete()
    is_equal([data["name"] for _, data in found], ["full", "full"])


@in_django
def test_values_of_many_kinds_are_json():
    names = ["maker", "maker_id", "tags", "image", "warranty", "added", "shout", "id"]
    with emitting(Product, fields=names, on="created") as found:
        maker = Maker.objects.create(name="m")
        product = Product.objects.create(
            name="x", maker=maker, tags=["a"], image="x.png", warranty=dt.timedelta(days=2, hours=1)
        )
    [(_, data)] = found
    assert data == json.loads(json.dumps(data))
    is_equal(
        data,
        {
            "pk": product.pk,
            "maker": maker.pk,
            "maker_id": maker.pk,
            "tags": ["a"],
            "image": "x.png",
            "warranty": "P2DT01H00M00S",
            "added": product.added.isoformat(),
            "shout": "X",
            "id": product.pk,
        },
    )


@in_django
def test_a_value_that_was_assigned_as_text_is_of_the_fields_type():
    with emitting(Product, fields=["stock", "price"], on="created") as found:
        Product.objects.create(name="x", stock="7", price="2")
    is_equal([(data["stock"], data["price"]) for _, data in found], [(7, "2")])


@in_django
def test_a_value_that_the_database_computes_is_read_from_it():
    product = Product.objects.create(name="x", stock=1)
    with emitting(Product, fields=["stock", "name", "shout"], track_changes=True) as found:
        product.stock = F("stock") + 2
        product.name = "y"
        product.save()
    [(_, data)] = found
    is_equal((data["stock"], data["shout"]), (3, "Y"))
    is_equal(data["changed"]["stock"], {"old": 1, "new": 3})
    is_equal(data["changed"]["shout"], {"old": "X", "new": "Y"})


@in_django
def test_a_transaction_that_rolls_back_emits_nothing():
    with emitting(Maker, fields=["name"]) as found, transaction.atomic():
        Maker.objects.create(name="kept")
        try:
            with transaction.atomic():
                Maker.objects.create(name="dropped")
                raise ValueError
        except ValueError:
            pass
    is_equal([data["name"] for _, data in found], ["kept"])


@in_django
def test_the_database_that_was_written_to_counts_and_the_delivery_that_was_asked_for():
    asked: list[Any] = []

    class Deliverer:
        def deliver(self, draft, delivery, using):
            asked.append((draft.events[0].name, delivery, using))
            return [None]

    before, installed.deliverer = installed.deliverer, Deliverer()
    bridge = emit_model_events(Maker, delivery="outbox", on=["created", "deleted"])
    other = emit_model_events(Voucher, on=["created"])
    try:
        maker = Maker.objects.using("default").create(name="a")
        maker.delete(using="default")
        Voucher.objects.create()
    finally:
        bridge.disconnect()
        other.disconnect()
        installed.deliverer = before
    is_equal(
        asked,
        [
            ("catalog/maker.created", "outbox", "default"),
            ("catalog/maker.deleted", "outbox", "default"),
            ("catalog/voucher.created", None, "default"),
        ],
    )


@in_django
def test_async_code_emits_too():
    async def create():
        maker = await Maker.objects.acreate(name="a")
        await maker.adelete()

    with emitting(Maker) as found:
        async_to_sync(create)()
    is_equal([name for name, _ in found], ["catalog/maker.created", "catalog/maker.deleted"])


# --- what is not ---------------------------------------------------------------------------------


@in_django
def test_fixtures_are_skipped():
    text = serializers.serialize("json", [Maker(pk=1, name="a")])
    with emitting(Maker, fields=["name"], track_changes=True) as found:
        for loaded in serializers.deserialize("json", text):
            loaded.save()
            loaded.save()
    assert Maker.objects.count() == 1
    is_equal(found, [])


@in_django
def test_an_update_that_writes_none_of_the_fields_is_skipped():
    product = Product.objects.create(name="a")
    with emitting(Product, fields=["name", "maker"]) as found:
        product.save(update_fields=["stock"])
        product.save(update_fields=["maker"])
        product.save(update_fields=["maker_id"])
        product.save(update_fields=["stock", "name"])
        product.save(update_fields=[])
    is_equal(len(found), 3)


@in_django
def test_without_fields_every_update_counts():
    product = Product.objects.create(name="a")
    with emitting(Product) as found:
        product.save(update_fields=["stock"])
    is_equal(found, [("catalog/product.updated", {"pk": product.pk})])


@in_django
def test_what_was_not_written_is_not_in_the_event():
    product = Product.objects.create(name="a", stock=1)
    with emitting(Product, fields=["name", "stock"]) as found:
        product.name, product.stock = "b", 99
        product.save(update_fields=["name"])
    is_equal(found[0][1], {"pk": product.pk, "name": "b", "stock": 1})


@in_django
def test_what_django_sends_no_signals_for():
    with emitting(Product, fields=["name"]) as found:
        Product.objects.bulk_create([Product(name="a"), Product(name="b")])
        Product.objects.update(name="c")
        products = list(Product.objects.all())
        Product.objects.bulk_update(products, ["name"])
        products[0].related.add(products[1])
        with connection.cursor() as cursor:
            cursor.execute("DELETE FROM catalog_product_related")
            cursor.execute("DELETE FROM catalog_product")
    is_equal(found, [])


@in_django
def test_a_queryset_and_a_cascade_delete_row_by_row():
    maker = Maker.objects.create(name="m")
    for name in "ab":
        Product.objects.create(name=name)
        Product.objects.create(name=name * 2, maker=maker)
    with emitting(Product, fields=["name"], on="deleted") as found:
        Product.objects.filter(maker=None).delete()
        maker.delete()
    is_equal(sorted(data["name"] for _, data in found), ["a", "aa", "b", "bb"])


@in_django
def test_deferred_fields_are_read_at_once_and_stay_deferred():
    Product.objects.create(name="a", stock=1)
    lean = Product.objects.only("id").get()
    with (
        emitting(Product, fields=["name", "stock"], on="deleted") as found,
        CaptureQueriesContext(connection) as queries,
    ):
        lean.delete()
    is_equal([(data["name"], data["stock"]) for _, data in found], [("a", 1)])
    is_equal(len([query for query in queries if "stock" in query["sql"]]), 1)
    assert {"name", "stock"} <= lean.get_deferred_fields()


# --- changes -------------------------------------------------------------------------------------


@in_django
def test_changes_have_old_and_new_values():
    product = Product.objects.create(name="a", price=1, tags=["x"])
    product = Product.objects.get()
    with emitting(Product, fields=["name", "price", "tags"], track_changes=True) as found:
        product.name = "b"
        product.save()
        product.price = "1.00"  # as it was
        product.save()
        product.tags.append("y")
        product.save()
        product.name, product.price = "c", 5
        product.save(update_fields=["price"])
        product.save()
        product.save()
    is_equal(
        [data["changed"] for _, data in found],
        [
            {"name": {"old": "a", "new": "b"}},
            {"tags": {"old": ["x"], "new": ["x", "y"]}},
            {"price": {"old": "1.00", "new": "5"}},
            {"name": {"old": "b", "new": "c"}},
        ],
    )


@in_django
def test_changes_are_those_of_the_row_whatever_the_instance_knew():
    Product.objects.create(name="a", stock=1)
    with emitting(Product, fields=["name", "stock"], track_changes=True) as found:
        product = Product.objects.get()
        Product.objects.update(name="elsewhere")
        product.refresh_from_db()
        product.save()  # as it is
        partly = Product.objects.only("stock").get()
        partly.name = "deferred"
        partly.save()
        Product.objects.only("id").get().save()
        unpickled = pickle.loads(pickle.dumps(partly))  # noqa: S301
        unpickled.stock = 2
        unpickled.save()
        Product(pk=product.pk, name="made up", stock=2, added=product.added).save()
    is_equal(
        [data["changed"] for _, data in found],
        [
            {"name": {"old": "elsewhere", "new": "deferred"}},
            {"stock": {"old": 1, "new": 2}},
            {"name": {"old": "deferred", "new": "made up"}},
        ],
    )


@in_django
def test_a_second_try_after_a_rollback_is_a_change_again():
    product = Product.objects.create(name="a")
    with emitting(Product, fields=["name"], track_changes=True) as found:
        product.name = "b"
        try:
            with transaction.atomic():
                product.save()
                raise ValueError
        except ValueError:
            pass
        product.save()
    is_equal([data["changed"] for _, data in found], [{"name": {"old": "a", "new": "b"}}])


@in_django
def test_a_receiver_that_saves_again_costs_no_change():
    def save_again(instance, created, **kwargs):
        if instance.name == "b":
            instance.name = "c"
            instance.save()

    product = Product.objects.create(name="a", stock=1)
    post_save.connect(save_again, sender=Product)
    try:
        with emitting(Product, fields=["name", "stock"], track_changes=True) as found:
            product.name, product.stock = "b", 2
            product.save()
    finally:
        post_save.disconnect(save_again, sender=Product)
    changed = [data["changed"] for _, data in found]
    is_equal(len(changed), 2)
    is_equal(changed[0], {"name": {"old": "b", "new": "c"}})
    is_equal(changed[1]["stock"], {"old": 1, "new": 2})
    assert not [key for key in vars(product) if "celery_fanout" in key]


@in_django
def test_what_tracking_asks_of_the_database():
    with emitting(Voucher, fields=["used"], track_changes=True):
        with CaptureQueriesContext(connection) as creating:
            voucher = Voucher.objects.create()
        with CaptureQueriesContext(connection) as updating:
            voucher.save()
    with emitting(Voucher, fields=["used"]), CaptureQueriesContext(connection) as untracked:
        voucher.save()
    counts = [len(queries) for queries in (creating, updating, untracked)]
    is_equal(counts, [1, 2, 1])


# --- inheritance ---------------------------------------------------------------------------------


@in_django
def test_a_proxys_instances_are_the_models():
    with emitting(Product, fields=["name"]) as found:
        bargain = Bargain.objects.create(name="a")
        bargain.save()
        Bargain.objects.all().delete()
    operations = ["created", "updated", "deleted"]
    is_equal([name for name, _ in found], [f"catalog/product.{word}" for word in operations])


@in_django
def test_a_proxy_that_is_made_later_too():
    with isolate_apps("tests.contrib.django.catalog"), emitting(Product, on="created") as found:

        class Late(Product):
            class Meta:
                proxy = True
                app_label = "catalog"

        Late.objects.create(name="a")
    is_equal(len(found), 1)


@in_django
def test_a_child_has_a_table_and_events_of_its_own():
    with emitting(Product, fields=["name"]) as found:
        book = Book.objects.create(name="a")
        book.save()
        book.delete()
    is_equal([name for name, _ in found], ["catalog/product.deleted"])
    with emitting(Book, fields=["name", "pages"], track_changes=True) as found:
        book = Book.objects.create(name="a")
        book.name = "b"
        book.save()
        pk = book.pk
        book.delete()
    is_equal([name.partition(".")[2] for name, _ in found], ["created", "updated", "deleted"])
    is_equal(found[1][1]["changed"], {"name": {"old": "a", "new": "b"}})
    is_equal(found[2][1], {"pk": pk, "name": "b", "pages": 1})


# --- connecting and refusing ---------------------------------------------------------------------


@in_django
def test_disconnecting_ends_it_for_proxies_too():
    bridge = emit_model_events(Product, fields=["name"], track_changes=True)
    is_equal(repr(bridge)[:35], "<ModelEvents catalog.Product: catal")
    bridge.disconnect()
    bridge.disconnect()
    with captured() as found:
        Product.objects.create(name="a").delete()
        Bargain.objects.create(name="a").save()
    is_equal(found, [])
    assert not post_save.has_listeners(Product)


@in_django
def test_connected_in_the_middle_of_a_save():
    made: list[ModelEvents] = []

    def connect(**kwargs):
        if not made:
            made.append(emit_model_events(Product, fields=["name"], track_changes=True))

    product = Product.objects.create(name="a")
    models.signals.pre_delete.connect(connect, sender=Product)
    try:
        with captured() as found:
            product.delete()
    finally:
        models.signals.pre_delete.disconnect(connect, sender=Product)
        made[0].disconnect()
    is_equal([name for name, _ in found], [])


@in_django
def test_the_same_events_twice():
    with emitting(Product, on=["created"]):
        with emitting(Product, on=["deleted"]), emitting(Product, prefix="other"):
            pass
        try:
            emit_model_events(Product)
        except InvalidModelEvents as exc:
            text = str(exc)
    assert text.startswith(
        "The model catalog.Product emits catalog/product.created, which catalog.Product emits "
        "already, from "
    ), text
    assert text.endswith("Remove one of the two, or give it another prefix=."), text
    emit_model_events(Product).disconnect()


@in_django
def test_a_module_that_is_reloaded():
    for _ in range(2):
        bridge = emit_model_events(Maker)
    with captured() as found:
        Maker.objects.create(name="a")
    bridge.disconnect()
    is_equal(len(found), 1)


def mistakes() -> dict[str, tuple[Any, dict[str, Any], str]]:
    """Return what is refused: model, options, and the whole message."""
    columns = ", ".join(field.name for field in Product._meta.concrete_fields)
    return {
        "no class": (Product(), {}, "The model <Product: Product object (None)> is no model. Pass"),
        "no model": (dict, {}, "The model <class 'dict'> is no model. Pass the class."),
        "abstract": (
            Timed,
            {},
            (
                "The model catalog.Timed is abstract, and has no rows. Name "
                "the models that inherit "
                "from it."
            ),
        ),
        "proxy": (
            Bargain,
            {},
            (
                "The model catalog.Bargain is a proxy, and its rows are "
                "those of another model. Name "
                "catalog.Product; when= can tell its rows apart."
            ),
        ),
        "auto-created": (
            Product.related.through,
            {},
            (
                "The model catalog.Product_related is the table of a "
                "many-to-many field, and Django "
                "sends no signals for its rows. Receive m2m_changed and emit "
                "there, or give the field "
                "a through= model."
            ),
        ),
        "field": (
            Product,
            {"fields": ["prise"]},
            "The model catalog.Product has no field 'prise'. Did you mean 'price'?",
        ),
        "strange field": (
            Product,
            {"fields": ["__"]},
            f"The model catalog.Product has no field '__'. It has {columns}.",
        ),
        "many to many": (
            Product,
            {"fields": ["related"]},
            (
                "The model catalog.Product keeps 'related' in no column of "
                "its own, and Django sends "
                "no signal when it changes. Name fields with a column; for a many-to-many field, "
                "receive m2m_changed."
            ),
        ),
        "reverse": (Maker, {"fields": ["product"]}, "The model catalog.Maker keeps 'product' in "),
        "bytes": (
            Product,
            {"fields": ["sheet"]},
            (
                "The model catalog.Product has bytes in 'sheet', and JSON "
                "has none. Leave it out: a "
                "subscriber can read it from the database."
            ),
        ),
        "reserved": (
            Product,
            {"fields": ["pk"]},
            (
                "The model catalog.Product cannot have 'pk' in fields=. The "
                "data have the primary key "
                "as 'pk' already, and 'changed' with track_changes."
            ),
        ),
        "operation": (
            Product,
            {"on": ["create"]},
            "The model catalog.Product has no operation 'create'. Did you mean 'created'?",
        ),
        "strange operation": (
            Product,
            {"on": "save"},
            (
                "The model catalog.Product has no operation 'save'. Use 'created', 'updated' and "
                "'deleted'."
            ),
        ),
        "nothing": (
            Product,
            {"on": []},
            "The model catalog.Product emits nothing. Name an operation in on=.",
        ),
        "changes of nothing": (
            Product,
            {"track_changes": True},
            "The model catalog.Product tracks changes of no fields. Name them in fields=.",
        ),
    }


@pytest.mark.parametrize(
    "case",
    [
        *("no class", "no model", "abstract", "proxy", "auto-created", "field", "strange field"),
        *("many to many", "reverse", "bytes", "reserved", "operation", "strange operation"),
        *("nothing", "changes of nothing"),
    ],
)
@in_django
def test_what_is_refused(case: str):
    model, options, message = mistakes()[case]
    try:
        emit_model_events(model, **options)
    except InvalidModelEvents as exc:
        text = str(exc)
    assert text == message if message.endswith((".", "?")) else text.startswith(message), text
    assert not post_save.has_listeners(Product)


@in_django
def test_a_swapped_model_and_a_strange_prefix():
    class Swapped(models.Model):
        class Meta:
            app_label = "catalog"
            swappable = "AUTH_USER_MODEL"

    for model, options, error, message in [
        (
            Swapped,
            {},
            InvalidModelEvents,
            "The model catalog.Swapped was swapped for auth.User. Name that one: get_user_model().",
        ),
        (
            Maker,
            {"prefix": "a b"},
            InvalidEventName,
            (
                "The event 'a b.created' has no valid name. A name has 1 to 200 characters, starts "
                "with a letter or digit, and goes on with letters, digits, '.', '_', '/' and '-'."
            ),
        ),
    ]:
        with pytest.raises(error, match=f"^{re.escape(message)}$"):
            emit_model_events(model, **options)


# --- other signals -------------------------------------------------------------------------------


@in_django
def test_a_receiver_of_any_signal_needs_no_more_than_emit():
    def announce(request, user, **kwargs):
        emit("user/logged-in", {"user": user.pk, "path": request.path})

    user = get_user_model().objects.create_superuser("ada", password="secret")
    user_logged_in.connect(announce)
    try:
        with captured() as found:
            answer = Client().post(
                "/admin/login/", {"username": "ada", "password": "secret", "next": "/admin/"}
            )
    finally:
        user_logged_in.disconnect(announce)
    is_equal(answer.status_code, 302)
    is_equal(found, [("user/logged-in", {"user": user.pk, "path": "/admin/login/"})])
