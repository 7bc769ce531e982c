"""What fits celery-fanout into frameworks. Each is optional, and nothing else imports it.

May import ``checks``, ``cli``, ``testing`` and what is below them.
Private: its modules may change without notice, but for those that the API reference names.
"""
