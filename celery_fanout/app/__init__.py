"""One app: its parts put together, attached to Celery, checked, and run as processes.

What belongs to an app is built here, once, when it is first needed. Below this room nothing looks
up a part: store, settings and registry are handed to constructors.

May import ``keeping``, ``running`` and what is below them.
Private: its modules may change without notice.
"""
