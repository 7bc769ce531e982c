# ruff: noqa: F821 - the names are those of the page
from proj.celery import app

from celery_fanout import get_fanout
from celery_fanout.app import checks

assert get_fanout(app).ledger.name == "The Redis ledger"
assert get_fanout(simple).level2 is None
found = {finding.id for finding in checks.findings(get_fanout(simple))}
assert found == {"fanout.W001"}, found  # nothing subscribes there
