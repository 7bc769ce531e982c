"""Views that emit, as a project has them."""

from __future__ import annotations

from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.urls import path

from celery_fanout import aemit, emit
from tests.contrib.django.shop.models import Order


def place(request: HttpRequest) -> HttpResponse:
    """Place an order; what goes wrong afterwards undoes it in a request that is atomic."""
    order = Order.objects.create(number=request.GET["number"])
    emission = emit("order/placed", {"number": order.number})
    if "fail" in request.GET:
        raise RuntimeError("after the emit")
    return HttpResponse(f"{emission.event.id} {len(emission.runs)}")


@transaction.non_atomic_requests
def place_by_hand(request: HttpRequest) -> HttpResponse:
    """The same, with a transaction of its own."""
    with transaction.atomic():
        return place(request)


@transaction.non_atomic_requests
async def place_async(request: HttpRequest) -> HttpResponse:
    """An async view has no transaction, so its event goes out at once."""
    await Order.objects.acreate(number=request.GET["number"])
    emission = await aemit("order/placed", {"number": request.GET["number"]})
    return HttpResponse(f"{emission.event.id} {len(emission.runs)}")


urlpatterns = [
    path("place", place),
    path("by-hand", place_by_hand),
    path("async", place_async),
]
