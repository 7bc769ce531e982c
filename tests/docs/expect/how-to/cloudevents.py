# ruff: noqa: F821 - the names are those of the page
import django
import proj.views
from django.conf import settings
from django.test import RequestFactory

from celery_fanout import testing

settings.configure(DEFAULT_CHARSET="utf-8", ALLOWED_HOSTS=["*"])
django.setup()
post = RequestFactory().post
structured = json.dumps(event.to_cloudevent())
with testing.capture() as events:
    answer = proj.views.cloudevents(
        post("/", structured, content_type="application/cloudevents+json")
    )
    assert answer.status_code == 202
    headers.pop("content-type")
    answer = proj.views.cloudevents(
        post("/", body, content_type="application/json", headers=headers)
    )
    assert answer.status_code == 202
    answer = proj.views.cloudevents(post("/", "{}", content_type="application/json"))
    assert answer.status_code == 400
assert events == [event, event]

assert event.headers().keys() == {f"ce_{key}" for key in event.attributes()}
