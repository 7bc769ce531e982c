"""Values that the tests of the admin look for. Without a subscriber, as tests import this."""

from __future__ import annotations

#: More than a float or JavaScript can hold.
BIG = 2**70 + 1
NASTY = "<script>alert('x')</script>"
SECRET = "hunter2-hunter2"
