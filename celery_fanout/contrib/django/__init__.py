"""celery-fanout in a Django project: put ``"celery_fanout.contrib.django"`` into INSTALLED_APPS."""
