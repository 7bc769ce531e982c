from django.db import models


class Order(models.Model):
    number = models.CharField(max_length=40, unique=True)
    status = models.CharField(max_length=20, default="new")
    total = models.DecimalField(max_digits=10, decimal_places=2, default=0)

    def __str__(self):
        return self.number
