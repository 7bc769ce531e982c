# ruff: noqa: F821 - the names are those of the page
assert WORKER_LOG.count("rendering the letter for Dora") == 1, WORKER_LOG
assert WORKER_LOG.count("sent to dora@example.com") == 1, WORKER_LOG
