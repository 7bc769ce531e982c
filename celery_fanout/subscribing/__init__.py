"""``@on_event`` to ``Subscription``: which tasks of an app want which events, with which limits.

Declarations, their validation, the registry of an app, and what the limits of a subscription come
to for one event. Nothing is published or stored here.

May import ``stores`` and what is below it.
Private: its modules may change without notice.
"""
