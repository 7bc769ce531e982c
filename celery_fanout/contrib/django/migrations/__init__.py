"""Migrations of the outbox's tables, in their order. Django writes and reads them.

Private: applied by ``manage.py migrate``, imported by nobody else.
"""
