"""The admin: with a real ledger that has runs in all states, made by a real worker."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import sync_playwright

from celery_fanout.contrib import django as admin
from tests.contrib.django.conftest import Project, make_database
from tests.contrib.django.words import BIG, NASTY, SECRET
from tests.processes import free_port, wait_until
from tests.servers import RedisServer, program

CHROMIUM = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
]
IMPORTS = "from tests.contrib.django.desking import *\n"
#: After how long the worker has nothing more to do.
SETTLED = """
    states = {str(state): count for state, count in get_fanout(app).runs.counts().items()}
    print(states["succeeded"] == 15 and states["failed"] == 1 and states["retrying"] == 1
          and states["suspended"] == 2)
"""
STATES = ("pending", "gated", "published", "running", "suspended", "retrying", "completing")
ENDS = ("succeeded", "failed", "cancelled")


class Desk(Project):
    """The project whose subscribers are those of :mod:`tests.contrib.django.desk`."""

    def script(self, script: str, **env: str) -> list[str]:
        """Run a script with the names of :mod:`tests.contrib.django.desking`; return its lines."""
        return self.run(IMPORTS + textwrap.dedent(script), **env).splitlines()


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture(scope="module")
def desk(
    redis: RedisServer, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Desk:
    directory = tmp_path_factory.mktemp("desk")
    database = make_database("sqlite", request, directory)
    environment = {
        "DJANGO_SETTINGS_MODULE": "tests.contrib.django.settings",
        "TEST_DATABASES": json.dumps({"default": database.settings}),
        "TEST_BROKER": redis.url(0),
        "TEST_BACKEND": redis.url(1),
        "TEST_MENDED": str(directory / "mended"),
    }
    found = Desk(database, directory / "oracle.jsonl", environment)
    found.settings(CELERY_IMPORTS=["tests.contrib.django.desk"])
    found.script("from tests.contrib.django.desk import fill; fill(app)")
    with found.worker():
        wait_until(lambda: found.script(SETTLED) == ["True"], 60)
    found.script("from tests.contrib.django.desk import hold; hold(app)")
    return found


def test_runs_of_every_state_are_listed(desk: Desk) -> None:
    lines = desk.script(
        f"""
        c = client()
        print(len(links(c.get(RUNS), RUNS)), len(get_fanout(app).runs.list()))
        for state in {STATES + ENDS!r}:
            shown = links(c.get(RUNS, {{"state": state}}), RUNS)
            there = get_fanout(app).runs.list(state=state)
            print(state, len(shown) == len(there) > 0, set(shown) == {{r.id for r in there}})
        """
    )
    shown, there = lines.pop(0).split()
    assert shown == there
    assert lines == [f"{state} True True" for state in STATES + ENDS]


def test_a_page_of_every_run_and_event(desk: Desk) -> None:
    lines = desk.script(
        """
        c = client(superuser=True)
        runs, events = get_fanout(app).runs.list(limit=500), get_fanout(app).runs.events()
        for run in runs:
            page = c.get(f"{RUNS}{run.id}/change/")
            assert run.id in text(page) and f"fanout-{run.state}" in text(page)
            assert links(page, EVENTS) == [run.event]
            for child in get_fanout(app).runs.get(run.id).detail["children"]:
                assert child in links(page, RUNS)
            if run.parent:
                assert run.parent in links(page, RUNS)
        for event in events:
            page = c.get(f"{EVENTS}{event.key}/change/")
            assert set(event.runs) <= set(links(page, RUNS))
        print(len(runs) > 20, len(events))
        """
    )
    assert lines == ["True 12"]


def test_a_run_tells_what_it_did(desk: Desk) -> None:
    (page,) = desk.script(
        """
        c = client("view_event_data")
        found = run("failed-1", "desk.fail@desk/failed")
        print(text(c.get(f"{RUNS}{found.id}/change/")).replace("\\n", " "))
        """
    )
    for part in (
        "execution 1 began",
        "step &#x27;look&#x27;",
        "Traceback",
        "desk.py",
        "ValueError",
    ):
        assert part in page
    assert "Retry" not in page  # without the permission


def test_what_is_shown_is_escaped_and_redacted_and_verbatim(desk: Desk) -> None:
    (page,) = desk.script(
        """
        c = client("view_event_data")
        found = run("paid-1", "desk.pay@desk/paid")
        pages = [c.get(f"{RUNS}{found.id}/change/"), c.get(f"{EVENTS}{found.event}/change/")]
        pages += [c.get(RUNS), c.get(EVENTS), c.get(RUNS, {"q": "<script>x", "name": "<script>y"})]
        print(" ".join(text(page).replace("\\n", " ") for page in pages))
        """
    )
    assert NASTY not in page
    assert "<script>x" not in page
    assert "<script>y" not in page
    assert "receipt &lt;script&gt;" in page
    assert page.count(str(BIG)) >= 4  # a step, its timeline, the event twice
    assert SECRET not in page
    assert page.count("[redacted]") >= 4


def test_without_the_permission_no_data_are_shown(desk: Desk) -> None:
    (page,) = desk.script(
        """
        c = client("retry_run", "cancel_run", "replay_event")
        urls = [RUNS, EVENTS]
        for record in get_fanout(app).runs.list(limit=500):
            urls.append(f"{RUNS}{record.id}/change/")
        for record in get_fanout(app).runs.events():
            urls.append(f"{EVENTS}{record.key}/change/")
        print(" ".join(text(c.get(url)).replace("\\n", " ") for url in urls))
        """
    )
    assert str(BIG) not in page
    assert "doc-77" not in page  # in the data, and in the message of an error
    assert "alert(" not in page.replace("receipt &lt;script&gt;alert(", "")  # a step's name
    assert "the line is busy" not in page
    assert "Traceback" not in page
    assert "You have no permission to view the data" in page
    assert "ValueError" in page


def test_filters_and_search(desk: Desk) -> None:
    lines = desk.script(
        """
        c = client()
        def listed(**query):
            return sorted(links(c.get(RUNS, query), RUNS))
        runs = get_fanout(app).runs
        def there(**query):
            return sorted(r.id for r in runs.list(**query))
        late = "desk.late@desk/*"
        print(listed(subscription=late) == there(subscription=late) != [])
        print(listed(name="desk/paid") == there(name="desk/paid") != [])
        key = event("asked-1").key
        print(listed(event=key) == there(event=key) != [])
        print(listed(since="1h") == there(), listed(state="nonsense", since="x") == there())
        one = runs.list()[0].id
        print(c.get(RUNS, {"q": one[:9]})["Location"] == f"{RUNS}{one}/change/")
        print(c.get(RUNS, {"q": "asked-1"})["Location"] == f"{RUNS}?event={key}")
        print(c.get(EVENTS, {"q": "asked-1"})["Location"] == f"{EVENTS}{key}/change/")
        print(c.get(EVENTS, {"q": "desk/paid"})["Location"])
        print(links(c.get(EVENTS, {"name": "desk/asked"}), EVENTS) == [key])
        page = c.get(RUNS, {"q": "nothing-like-it"})
        print([str(m) for m in page.context["messages"]], len(page.context["rows"]))
        """
    )
    assert lines == [
        *(["True"] * 3),
        "True True",
        *(["True"] * 3),
        "/admin/celery_fanout/event/?name=desk%2Fpaid",
        "True",
        "['The ledger has nothing called “nothing-like-it”.'] 0",
    ]


def test_pages_of_a_long_list_leave_nothing_out(desk: Desk) -> None:
    """Also not of what was recorded at the same time, which is more than a page here."""
    lines = desk.script(
        """
        import re
        from celery_fanout.contrib.django.admin import events, runs
        events.PAGE = runs.PAGE = 3
        c = client()
        for url in (RUNS, EVENTS):
            seen, query = [], "?"
            while query:
                page = c.get(url + query)
                shown = links(page, url)
                assert 1 <= len(shown) <= 3
                seen += shown
                query = page.context["older"] and "?" + page.context["older"]
            runs = get_fanout(app).runs
            there = [r.id for r in runs.list()] if url == RUNS else [e.key for e in runs.events()]
            print(len(seen) == len(set(seen)) == len(there), set(seen) == set(there))
        """
    )
    assert lines == ["True True"] * 2


def test_only_permissions_open_pages_and_actions(desk: Desk) -> None:
    lines = desk.script(
        """
        from django.contrib.auth.models import User
        from django.test import Client
        nobody = Client()
        nobody.force_login(User.objects.create_user("nobody", is_staff=True))
        found = run("failed-1", "desk.fail@desk/failed")
        urls = [RUNS, f"{RUNS}{found.id}/change/", f"{RUNS}{found.id}/history/", EVENTS,
                f"{EVENTS}{found.event}/change/"]
        print([nobody.get(url).status_code for url in urls], Client().get(RUNS).status_code)
        viewer = client()
        for action in ("retry", "cancel"):
            asked = {"action": action, "_selected_action": found.id, "post": "yes"}
            print(viewer.post(RUNS, asked).status_code)
        answer = viewer.post(
            EVENTS, {"action": "replay", "_selected_action": found.event, "post": "yes"}
        )
        print(answer.status_code, get_fanout(app).runs.get(found.id).state)
        print(LogEntry.objects.count())
        page = text(viewer.get(RUNS))
        print("Retry" in page, "Cancel selected" in page, "action-select" in page)
        strict = Client(enforce_csrf_checks=True)
        strict.force_login(User.objects.create_superuser("root"))
        print(strict.post(RUNS, {"action": "retry", "_selected_action": found.id}).status_code)
        print([strict.get(RUNS + rest).status_code for rest in ("add/", f"{found.id}/delete/")])
        """
    )
    assert lines == [
        "[403, 403, 403, 403, 403] 302",
        "403",
        "403",
        "403 failed",
        "0",
        "False False False",
        "403",
        "[404, 404]",
    ]


def test_actions_ask_first_and_are_logged(desk: Desk) -> None:
    mended = Path(desk.environment["TEST_MENDED"])
    lines = desk.script(
        """
        c = client("retry_run", "cancel_run", "replay_event")
        found = run("failed-1", "desk.fail@desk/failed")
        def state(id_):
            return str(get_fanout(app).runs.get(id_).state)
        # asked, and not answered
        c.post(RUNS, {"action": "cancel", "_selected_action": found.id})
        print(state(found.id), LogEntry.objects.count())
        print(act(c, RUNS, "retry", found.id, reason="<b>it is</b> mended", _detail=found.id))
        print(state(found.id), get_fanout(app).runs.get(found.id).reason)
        slept = run("slept-1", "desk.sleep@desk/slept").id
        ended = run("paid-1", "desk.pay@desk/paid").id
        for message in act(c, RUNS, "cancel", slept, ended):
            print(message.replace(ended, "ENDED"))
        print(state(slept), state(ended))
        key = event("retried-1").key
        print(act(c, EVENTS, "replay", key, reason="again"))
        print(len(event("retried-1").replayed))
        for entry in LogEntry.objects.order_by("id"):
            print(entry.user == c.user, entry.content_type.model, entry.get_change_message())
        print([e.object_id for e in LogEntry.objects.order_by("id")] == [found.id, slept, key])
        history = text(c.get(f"{RUNS}{found.id}/history/"))
        print("Retried. &lt;b&gt;it is&lt;/b&gt; mended" in history)
        entry = LogEntry.objects.order_by("id")[0]
        print(c.get("/admin/" + entry.get_admin_url().removeprefix("/admin/")).status_code)
        print(str(entry.object_repr) == f"desk.fail@desk/failed {found.id}")
        """
    )
    user = lines[2].rpartition("by ")[2].split(":")[0]
    assert lines == [
        "failed 0",
        "['1 run is retried.']",
        f"published by {user}: <b>it is</b> mended",
        "The run ENDED is succeeded and cannot be cancelled. It has ended.",
        "1 run is cancelled.",
        "cancelled succeeded",
        "['1 event is replayed: 2 new runs.']",
        "2",
        "True run Retried. <b>it is</b> mended",
        "True run Cancelled.",
        "True event Replayed. again",
        "True",
        "True",
        "200",
        "True",
    ]
    mended.touch()
    with desk.worker():
        done = 'print(run("failed-1", "desk.fail@desk/failed").state)'
        wait_until(lambda: desk.script(done) == ["succeeded"], 60)


def test_what_is_gone_or_nonsense_is_told(desk: Desk) -> None:
    lines = desk.script(
        """
        c = client("retry_run")
        gone = "00000000-0000-5000-8000-000000000000"
        def said(answer):
            return [str(m) for m in c.get(answer["Location"]).context["messages"]]
        for url in (RUNS, EVENTS):
            print(said(c.get(f"{url}{gone}/change/")))
            print(said(c.get(f"{url}{gone}/history/"))[0][:3])
        print(said(c.post(RUNS, {"action": "retry"})))
        print(said(c.post(RUNS, {"action": "nonsense", "_selected_action": gone})))
        print(said(c.post(RUNS, {"action": "retry", "_selected_action": gone, "post": "yes"})))
        many = [str(n) for n in range(201)]
        print(said(c.post(RUNS, {"action": "retry", "_selected_action": many})))
        print(c.get(RUNS, {"before": "nonsense,"}).status_code)
        print(c.get(RUNS, {"before": "nan,x"}).status_code)
        """
    )
    gone = "00000000-0000-5000-8000-000000000000"
    no_run = f"The ledger has no run '{gone}'. It may have expired, or belong to another app"
    assert no_run in lines[0]
    assert "The ledger has no event" in lines[2]
    assert [lines[1], lines[3]] == ["run", "eve"]
    assert lines[4:6] == [
        "['Nothing is selected, so nothing was changed.']",
        "['No action selected.']",
    ]
    assert no_run in lines[6]
    assert lines[7:] == ["['At most 200 can be changed at once here.']", "200", "200"]


PAGES = """
    c = client("retry_run", "view_event_data")
    gone = "00000000-0000-5000-8000-000000000000"
    pages = [c.get(url) for url in (RUNS, EVENTS)]
    pages += [c.get(f"{RUNS}{gone}/change/"), c.get(f"{EVENTS}{gone}/history/")]
    pages.append(c.post(RUNS, {"action": "retry", "_selected_action": gone, "post": "yes"}))
    print([page.status_code for page in pages])
    for page in pages:
        print(" ".join(text(page).split()))
    print(c.get("/admin/").status_code, c.get("/admin/celery_fanout/outboxevent/").status_code)
"""


def test_without_a_ledger_the_pages_say_how_to_get_one(desk: Desk) -> None:
    codes, *pages, others = desk.script(PAGES, TEST_BACKEND="cache+memory://")
    assert codes == "[200, 200, 200, 200, 200]"
    for page in pages:
        assert "nothing keeps them" in page
        assert 'CELERY_FANOUT_STORE_URL = "redis://localhost:6379/1"' in page
    assert others == "200 200"


def test_a_ledger_that_does_not_answer_is_told_of(desk: Desk) -> None:
    away = f"redis://127.0.0.1:{free_port()}/0"
    codes, *pages, others = desk.script(PAGES, TEST_BACKEND=away)
    assert codes == "[200, 200, 200, 200, 200]"
    for page in pages:
        assert "The ledger does not answer" in page
    assert others == "200 200"


def test_a_setting_that_is_wrong_is_told_of(desk: Desk) -> None:
    wrong = {
        "CELERY_FANOUT_REDACT": "no.such.function",
        "CELERY_IMPORTS": ["tests.contrib.django.desk"],
    }
    lines = desk.script(
        """
        c = client("view_event_data")
        print(text(c.get(f"{EVENTS}{event('paid-1').key}/change/")).replace("\\n", " "))
        """,
        TEST_SETTINGS=json.dumps(wrong),
    )
    assert "fanout_redact is &#x27;no.such.function&#x27;, which cannot be imported" in lines[0]


def test_ones_own_redaction(desk: Desk) -> None:
    ours = {
        "CELERY_FANOUT_REDACT": "tests.contrib.django.desk.redact",
        "CELERY_IMPORTS": ["tests.contrib.django.desk"],
    }
    (page,) = desk.script(
        """
        c = client("view_event_data")
        found = run("paid-1", "desk.pay@desk/paid")
        print(text(c.get(f"{RUNS}{found.id}/change/")).replace("\\n", " "))
        """,
        TEST_SETTINGS=json.dumps(ours),
    )
    assert "ours: desk/paid" in page
    assert SECRET not in page
    assert str(BIG) not in page


def test_the_models_have_no_table_and_ask_no_database(desk: Desk) -> None:
    out = desk.script(
        """
        from io import StringIO
        from django.core.management import call_command
        from django.contrib.contenttypes.models import ContentType
        from celery_fanout.contrib.django.models import Event, Run
        print(list(Run.objects.all()), Event.objects.count(), connection.queries_log)
        buffer = StringIO()
        call_command("dumpdata", "celery_fanout", stdout=buffer)
        call_command("dumpdata", "celery_fanout", "--all", stdout=buffer)
        print(buffer.getvalue().replace("\\n", ""))
        tables = connection.introspection.table_names()
        print([name for name in tables if name.startswith("celery_fanout")])
        codes = ContentType.objects.get_for_model(Run).permission_set
        print(sorted(codes.values_list("codename", flat=True)))
        """
    )
    assert out == [
        "[] 0 deque([], maxlen=9000)",
        "[][]",
        "['celery_fanout_outbox']",
        "['cancel_run', 'retry_run', 'view_run']",
    ]
    assert "No changes" in desk.manage("makemigrations", "--check", "--dry-run")


def test_the_outbox_is_read_only_and_dead_rows_are_requeued(desk: Desk) -> None:
    lines = desk.script(
        f"""
        from django.utils import timezone
        import json
        now = timezone.now()
        def row(id_, **more):
            data = {{"number": {BIG}, "password": {SECRET!r}, "note": {NASTY!r}}}
            event = {{"specversion": "1.0", "id": id_, "type": "x/y", "source": "/", "data": data}}
            return OutboxEvent.objects.create(
                app="shop", name="x/y", event_id=id_, event=json.dumps(event), created_at=now,
                available_at=now, **more)
        waiting = row("waiting")
        dead = [row(f"dead-{{n}}", dead_at=now, attempts=5,
                    last_error="ValueError: {NASTY}") for n in range(2)]
        base = "/admin/celery_fanout/"
        c = client()
        live, graves = c.get(base + "outboxevent/"), c.get(base + "deadoutboxevent/")
        print("waiting" in text(live), "dead-0" in text(live), "waiting" in text(graves),
              "dead-0" in text(graves), "ValueError" in text(graves), {NASTY!r} in text(graves))
        one = f"{{base}}deadoutboxevent/{{dead[0].pk}}/change/"
        page = text(c.get(one))
        print("alert(" in page, {str(BIG)!r} in page)
        page = text(client("view_event_data").get(one))
        print({NASTY!r} in page, "alert(" in page, {str(BIG)!r} in page, {SECRET!r} in page)
        codes = [c.get(base + rest).status_code for rest in
                 ("outboxevent/add/", f"outboxevent/{{waiting.pk}}/delete/")]
        print(codes, c.post(one, {{"name": "z"}}).status_code)
        print("requeue" in text(graves))
        c.post(base + "deadoutboxevent/", {{"action": "requeue", "_selected_action": dead[0].pk,
               "post": "yes"}})
        print(DeadOutboxEvent.objects.count())
        may = client("requeue_outbox_event")
        print(act(may, base + "deadoutboxevent/", "requeue", dead[0].pk, reason="the app is back"))
        again = OutboxEvent.objects.get(pk=dead[0].pk)
        print(again.dead_at, again.attempts, again.available_at >= now)
        print(DeadOutboxEvent.objects.count())
        entry = LogEntry.objects.latest("id")
        print(entry.user == may.user, entry.content_type.model, entry.object_id == str(dead[0].pk),
              entry.get_change_message())
        """
    )
    assert lines == [
        "True False False True True False",
        "False False",
        "False True True False",
        "[403, 403] 403",
        "False",
        "2",
        "['1 event is requeued.']",
        "None 0 True",
        "1",
        "True deadoutboxevent True Requeued. the app is back",
    ]


#: Words that are the same in German.
SAME = {"Filter", "Generation", "Id", "Status", "Task", "Traceback", "Worker"}


@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
def test_the_outbox_of_another_database(project: Project, tmp_path: Path) -> None:
    other = {"ENGINE": "django.db.backends.sqlite3", "NAME": str(tmp_path / "other.sqlite3")}
    databases = {"default": project.database.settings, "other": other}
    project.environment["TEST_DATABASES"] = json.dumps(databases)
    project.manage("migrate", "celery_fanout", "--database=other", "--verbosity=0")
    out = project.run(
        f"""
        {IMPORTS}
        from django.contrib.admin import AdminSite
        from django.urls import path
        from django.utils import timezone
        from celery_fanout.contrib.django.admin import DeadOutboxEventAdmin
        from tests.contrib.django import urls

        class Graves(DeadOutboxEventAdmin):
            using = "other"

        site = AdminSite("other")
        site.register(DeadOutboxEvent, Graves)
        urls.urlpatterns.append(path("other/", site.urls))
        now = timezone.now()
        for alias in ("default", "other"):
            row = OutboxEvent.objects.using(alias).create(
                name="a/b", event_id=f"of {{alias}}", event="{{}}",
                created_at=now, available_at=now, dead_at=now, last_error="KeyError: 1"
            )
        c = client(superuser=True)
        for base in ("admin", "other"):
            page = text(c.get(f"/{{base}}/celery_fanout/deadoutboxevent/"))
            print("of default" in page, "of other" in page)
        print(act(c, "/other/celery_fanout/deadoutboxevent/", "requeue", row.pk))
        print(DeadOutboxEvent.objects.count(), DeadOutboxEvent.objects.using("other").count())
        """
    )
    assert out.splitlines() == [
        "True False",
        "False True",
        "['1 event is requeued.']",
        "1 0",
    ]


def test_the_pages_speak_german(desk: Desk) -> None:
    templates = Path(admin.__file__).parent / "templates"
    texts = {
        text
        for file in templates.rglob("*.html")
        for text in re.findall(r'{% translate "([^"]+)" %}', file.read_text())
    }
    assert len(texts) > 50
    german = {"LANGUAGE_CODE": "de", "CELERY_IMPORTS": ["tests.contrib.django.desk"]}
    lines = desk.script(
        f"""
        from django.utils.translation import gettext
        c = client("view_event_data", "retry_run")
        print(text(c.get(RUNS, {{"state": "succeeded"}})).replace("\\n", " "))
        print([one for one in {sorted(texts - SAME)!r} if gettext(one) == one])
        """,
        TEST_SETTINGS=json.dumps(german),
    )
    for part in ("Ausgewählte Läufe erneut versuchen", "erfolgreich (", "Letzte Stunde", "Nach"):
        assert part in lines[0]
    assert lines[1] == "[]"


def test_a_person_replays_an_event_in_a_browser(desk: Desk) -> None:
    port = free_port()
    server = desk.start(
        f"""
        from django.contrib.auth.models import User
        from django.core.management import call_command
        User.objects.create_superuser("alice", password="pw")
        call_command("runserver", "127.0.0.1:{port}", use_reloader=False, skip_checks=True)
        """,
        "Quit the server",
        TEST_SETTINGS=json.dumps({"CELERY_IMPORTS": ["tests.contrib.django.desk"], "DEBUG": True}),
    )
    problems: list[str] = []
    with server, sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=program("chromium", "chromium"), args=CHROMIUM
        )
        page = browser.new_page(base_url=f"http://127.0.0.1:{port}")
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("dialog", lambda dialog: (problems.append(dialog.message), dialog.dismiss()))
        page.on("response", lambda r: r.ok or r.status < 400 or problems.append(r.url))
        page.goto("/admin/")
        page.fill("#id_username", "alice")
        page.fill("#id_password", "pw")
        page.click("[type=submit]")
        hidden = "({scrollWidth, clientWidth}) => scrollWidth - clientWidth"
        page.goto("/admin/celery_fanout/event/")
        assert page.locator(".results").evaluate(hidden) == 0  # all columns are seen
        page.goto("/admin/")
        page.click("#content >> text=Runs")
        assert page.locator(".results").evaluate(hidden) == 0
        page.wait_for_load_state("load")  # Django's script for the checkboxes, too
        page.check("#action-toggle")
        shown = page.locator(".action-select").count()
        assert page.locator(".action-counter").inner_text() == f"{shown} of {shown} selected"
        page.click("td:text-is('desk.pay@desk/paid') >> xpath=../th/a")
        page.locator("h2", has_text="Timeline").wait_for()
        page.click("text=desk/paid paid-1")
        page.click("button:text-is('Replay')")
        page.fill("#reason", NASTY)
        page.click("#content input[type=submit]")
        assert page.locator(".messagelist").inner_text() == "1 event is replayed: 2 new runs."
        assert page.locator("tr", has_text="published").count() == 2
        page.click("text=History")
        page.locator("td", has_text=f"Replayed. {NASTY}").wait_for()
        browser.close()
    assert problems == []


def test_runs_that_wait_for_a_limit_or_collect(desk: Desk) -> None:
    lines = desk.script(
        """
        def page(run):
            return c.get(f"{RUNS}{run.id}/change/")

        fanout = get_fanout(app)
        for number in (1, 2):
            fanout.emit("desk/limited", {}, id=f"limited-{number}", delivery="now")
        for number in range(1, 102):
            fanout.emit("desk/listed", {}, id=f"listed-{number}", delivery="now")
        c = client()
        waits = run("limited-2", "desk.limited@desk/limited")
        print("for concurrency desk.limited@desk/limited, since 20" in text(page(waits)))
        print("concurrency desk.limited" in text(c.get(RUNS, {"state": "gated"})))
        collects = run("listed-1", "desk.listed@desk/listed")
        shown = text(page(collects))
        print("batch desk.listed@desk/listed collects events, until 20" in shown)
        keys = [event(f"listed-{n}").key for n in range(1, 101)]
        print(links(page(collects), EVENTS) == keys)
        print("and 1 more" in shown)
        for number in (1, 101):  # from each event one finds the run that it joined
            there = c.get(f"{EVENTS}{event(f'listed-{number}').key}/change/")
            print(collects.id in links(there, RUNS))
        """
    )
    assert lines == ["True"] * 7
