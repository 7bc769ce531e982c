"""Models of all the kinds that a bridge from signals to events has to think of."""

from __future__ import annotations

import uuid

from django.db import models
from django.db.models.functions import Upper


class Maker(models.Model):
    name = models.CharField(max_length=40)


class Timed(models.Model):
    added = models.DateTimeField(auto_now_add=True)

    class Meta:
        abstract = True


class Product(Timed):
    name = models.CharField(max_length=40)
    price = models.DecimalField(max_digits=8, decimal_places=2, default=0)
    stock = models.IntegerField(default=0)
    maker = models.ForeignKey(Maker, models.CASCADE, null=True)
    tags = models.JSONField(default=list)
    image = models.FileField(blank=True)
    warranty = models.DurationField(null=True)
    sheet = models.BinaryField(null=True)
    related = models.ManyToManyField("self")
    shout = models.GeneratedField(
        expression=Upper("name"), output_field=models.CharField(max_length=40), db_persist=True
    )


class Bargain(Product):
    class Meta:
        proxy = True


class Book(Product):
    pages = models.IntegerField(default=1)


class Voucher(models.Model):
    code = models.UUIDField(primary_key=True, default=uuid.uuid4)
    used = models.BooleanField(default=False)
