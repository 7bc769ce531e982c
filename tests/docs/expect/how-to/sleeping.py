# ruff: noqa: F821 - the names are those of the page
from proj import calls

from celery_fanout.testing import run

found = run(send_course, {"email": "ada@example.com"})
assert found.state == "suspended"
assert found.due - found.clock.now == 86_400
found.resume()
assert found.state == "suspended"
found.resume()
assert found.state == "succeeded"
assert (found.attempts, found.retries) == (3, 0)
assert calls.taken() == [f"mail ada@example.com: Lesson {number}" for number in (1, 2, 3)]

# Start all subscribers later
assert [run.subscription.id for run in emission.runs] == ["tasks.send_course@user/signed-up"]
