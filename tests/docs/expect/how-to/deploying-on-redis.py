# ruff: noqa: F821 - the names are those of the page
"""Which level each of the apps is on, and whether level 1 is complete."""

from celery_fanout import get_fanout
from celery_fanout.app import checks

for found in (app, watched, clustered):
    assert get_fanout(found).level2 is not None, found
assert get_fanout(app).ledger.client is not None
assert get_fanout(simple).level2 is None
found = {finding.id for finding in checks.findings(get_fanout(simple))}
assert found == {"fanout.W001"}, found  # nothing subscribes there
