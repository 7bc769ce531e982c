"""What the scripts of the admin's tests use: clients, and a look at pages."""

from __future__ import annotations

import html
import re

from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission, User
from django.test import Client
from django.test.utils import setup_test_environment

from celery_fanout import get_fanout
from tests.contrib.django.celery_app import app

__all__ = ["EVENTS", "RUNS", "LogEntry", "act", "client", "event", "links", "run", "text"]

setup_test_environment()  # responses have their context
RUNS = "/admin/celery_fanout/run/"
EVENTS = "/admin/celery_fanout/event/"
VIEWS = ("view_run", "view_event", "view_outboxevent", "view_deadoutboxevent")


def client(*permissions, superuser=False):
    """Return a client of a new user of the staff who may view, and what else is named."""
    name = f"user{User.objects.count()}"
    user = User.objects.create_user(name, is_staff=True, is_superuser=superuser)
    if not superuser:
        for codename in (*VIEWS, *permissions):
            user.user_permissions.add(Permission.objects.get(codename=codename))
    found = Client()
    found.force_login(user)
    found.user = user
    return found


def event(id_):
    """Return an event of the ledger."""
    return get_fanout(app).runs.event(id_)


def run(id_, subscription):
    """Return the run of an event."""
    runs = get_fanout(app).runs
    return runs.list(event=runs.event(id_).key, subscription=subscription)[0]


def text(response):
    """Return what a page says."""
    assert response.status_code == 200, (response.status_code, response.get("Location"))
    return response.content.decode()


def links(response, prefix):
    """Return the ids that a page links to, each once, in order."""
    found = re.findall(rf'href="{prefix}([^/"?]+)/change/', text(response))
    return list(dict.fromkeys(found))


def act(client, url, action, *ids, reason=None, **more):
    """Do something, with the question before it; return the texts of the messages."""
    data = {"action": action, "_selected_action": ids, **more}
    asked = client.post(url, data)
    for id_ in ids:
        assert f'value="{html.escape(str(id_))}"' in text(asked)
    answer = client.post(url, {**data, "post": "yes", "reason": reason or ""})
    assert answer.status_code == 302, answer.content
    return [str(m) for m in client.get(answer["Location"]).context["messages"]]
