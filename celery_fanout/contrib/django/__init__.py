"""celery-fanout in a Django project: put ``"celery_fanout.contrib.django"`` into INSTALLED_APPS.

The outbox and its relay, events from model signals, webhooks, the admin, system checks and
management commands: everything that imports Django.

May import what ``contrib`` may, and Django.
Public: the modules that the API reference names. The others may change without notice.
"""
