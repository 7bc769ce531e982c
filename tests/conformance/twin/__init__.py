"""A ledger in Python, written apart from the scripts: the model of their rules as of version 0.1.

Each function has its twin in ``stores/redis/scripts/``. It is slow to look things up, and easy to
look into: the machine in ``tests/conformance/machine.py`` draws what to do next from its rows, and
compares the scripts with it. It need not learn rules that come later.
"""

from __future__ import annotations

from tests.conformance.twin.ledger import Twin

__all__ = ["Twin"]
