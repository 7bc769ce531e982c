"""What the pages show of a document: from the ledger how it goes, from the database what came out.

The ledger forgets runs after a day or a week, as the settings say, and then the results in the
database are all there is.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from celery_fanout import Checkpoint, FanoutError, get_fanout, key_of, timeline
from celery_fanout.exceptions import EventNotFound
from example_project.inbox.models import Document, Reading
from example_project.inbox.tasks import FIELDS
from example_project.website import celery_app

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from celery_fanout import EventRecord, RunControl, RunOutcome, RunRecord

EVENT = "document/uploaded"

#: The subscribers, by the end of their task's name, and what they find out.
SUBJECTS = {"summarize": "summary", "classify": "category", "extract_entities": "entities"}
TITLES = {"summary": "Summary", "category": "Category", "entities": "Entities"}

#: A badge and its words for each state of a run.
WORDS = {
    "pending": ("waiting", "Waiting"),
    "gated": ("waiting", "Waiting for its turn"),
    "published": ("waiting", "Waiting for a worker"),
    "running": ("working", "Working"),
    "suspended": ("waiting", "Sleeping"),
    "retrying": ("retrying", "Will try again"),
    "completing": ("working", "Saving"),
    "succeeded": ("done", "Done"),
    "failed": ("failed", "Failed"),
    "cancelled": ("failed", "Cancelled"),
}
ENDS = ("done", "failed", "unknown")


@dataclass(frozen=True)
class Attempt:
    number: int
    started: dt.datetime
    seconds: float
    outcome: str
    error: str


@dataclass(frozen=True)
class Step:
    """A checkpoint: what was done once, and in which attempt."""

    name: str
    attempt: int
    later: int
    """How many later attempts took the value from here."""


@dataclass(frozen=True)
class Card:
    """One subscriber's handling of one document."""

    subject: str
    badge: str = "waiting"
    words: str = "Waiting"
    run_id: str = ""
    value: Any = None
    has_value: bool = False
    due: dt.datetime | None = None
    wait: int = 0
    error: str = ""
    attempts: Sequence[Attempt] = ()
    steps: Sequence[Step] = ()
    timeline: str = ""

    @property
    def title(self) -> str:
        return TITLES[self.subject]

    @property
    def ended(self) -> bool:
        return self.badge in ENDS

    @property
    def found(self) -> list[tuple[str, str]]:
        """What was extracted, in the order of the fields: a database may have another."""
        return [(name, ", ".join(self.value.get(name, ()))) for name in FIELDS]

    @property
    def certainty(self) -> str:
        return f"{self.value['confidence']:.0%}"

    @property
    def can_retry(self) -> bool:
        return self.badge == "failed" and bool(self.run_id)


@dataclass(frozen=True)
class Progress:
    document: Document
    cards: Sequence[Card] = field(default_factory=list)
    problem: str = ""

    @property
    def ended(self) -> bool:
        return all(card.ended for card in self.cards)

    @property
    def attempts(self) -> int:
        return sum(len(card.attempts) for card in self.cards)

    @property
    def words(self) -> str:
        """One sentence for people who do not see the page."""
        if self.problem:
            return self.problem
        done = sum(card.badge == "done" for card in self.cards)
        said = [f"{done} of {len(self.cards)} done"]
        for card in self.cards:
            if card.badge == "failed":
                said.append(f"{card.title.lower()} failed")
            elif card.badge == "retrying":
                said.append(f"{card.title.lower()} failed and will try again")
        return ", ".join(said) + "."


def progress_of(document: Document, *, detailed: bool = True) -> Progress:
    return progress_of_many([document], detailed=detailed)[0]


def progress_of_many(documents: Iterable[Document], *, detailed: bool = False) -> list[Progress]:
    documents = list(documents)
    readings: dict[Any, dict[str, Any]] = {}
    for reading in Reading.objects.filter(document__in=documents):
        readings.setdefault(reading.document_id, {})[reading.subject] = reading.value
    found = []
    for document in documents:
        mine = readings.get(document.pk, {})
        try:
            cards = _cards(document, mine, detailed=detailed)
            found.append(Progress(document, cards))
        except FanoutError as exc:  # Redis may be away; the results are in the database
            found.append(Progress(document, _without_ledger(mine), f"The ledger: {exc}"))
    return found


def _cards(document: Document, readings: Mapping[str, Any], *, detailed: bool) -> list[Card]:
    runs = get_fanout(celery_app).runs
    try:
        event = runs.event(str(document.pk), EVENT)
    except EventNotFound:
        return _without_ledger(readings)
    cards: dict[str, Card] = {}
    for run_id, outcome in zip(event.runs, runs.outcomes(event.runs), strict=True):
        run = runs.get(run_id)
        subject = SUBJECTS.get(run.subscription.partition("@")[0].rpartition(".")[2])
        if subject is not None:
            cards[subject] = card_of(
                runs, event, run, outcome, subject, readings, detailed=detailed
            )
    return [cards.get(subject) or _forgotten(subject, readings) for subject in TITLES]


def _without_ledger(readings: Mapping[str, Any]) -> list[Card]:
    return [_forgotten(subject, readings) for subject in TITLES]


def _forgotten(subject: str, readings: Mapping[str, Any]) -> Card:
    if subject in readings:
        return Card(subject, "done", "Done", value=readings[subject], has_value=True)
    return Card(subject, "unknown", "Not in the ledger")


def card_of(
    runs: RunControl,
    event: EventRecord,
    run: RunRecord,
    outcome: RunOutcome,
    subject: str,
    readings: Mapping[str, Any],
    *,
    detailed: bool,
) -> Card:
    # of its tail, when it has come so far: done is what has been saved
    state = outcome.state or run.state
    badge, words = WORDS[str(state)]
    if run.state in ("completing", "succeeded") and badge in ("waiting", "working"):
        badge, words = "working", "Saving"
    at_its_tail = run.state == "succeeded" and badge == "failed"
    due = run.due if badge == "retrying" else None
    # by the ledger's clock, as the times of its runs are
    wait = max(0, round(due - get_fanout(celery_app).ledger.time())) if due else 0
    error = outcome.error or {}
    attempts = _attempts(run)
    return Card(
        subject=subject,
        badge=badge,
        words="Found out, but not saved" if at_its_tail else words,
        run_id=outcome.run_id if not at_its_tail else _failed_child(runs, run),
        value=readings.get(subject),
        has_value=subject in readings,
        due=_time(due) if due else None,
        wait=wait,
        error=f"{error.get('type')}: {error.get('message')}" if error else "",
        attempts=attempts,
        steps=_steps(run, attempts),
        timeline=_timeline(runs, event, run) if detailed else "",
    )


def _failed_child(runs: RunControl, run: RunRecord) -> str:
    for child in run.detail["children"]:
        if runs.get(child).state == "failed":
            return str(child)
    return ""


def _timeline(runs: RunControl, event: EventRecord, run: RunRecord) -> str:
    """Return what `celery fanout show` prints."""
    children = [runs.get(child) for child in run.detail["children"]]
    return timeline(run, event, children)


def _time(timestamp: float) -> dt.datetime:
    return dt.datetime.fromtimestamp(timestamp, dt.timezone.utc)


def _attempts(run: RunRecord) -> list[Attempt]:
    found = []
    for each in run.detail["attempts"]:
        outcome = "done" if each["outcome"] in ("completing", "succeeded") else each["outcome"]
        seconds = each["ended"] - each["started"]
        found.append(
            Attempt(each["number"], _time(each["started"]), seconds, outcome, each["error"])
        )
    # one that succeeds at once is not noted
    ended = run.updated if run.state == "completing" else run.finished
    if run.started and not found and ended:
        found.append(Attempt(1, _time(run.started), ended - run.started, "done", ""))
    elif run.state == "running":
        started = run.updated if found else run.started or run.updated
        found.append(Attempt(run.token, _time(started), 0.0, "running", ""))
    return found


def _steps(run: RunRecord, attempts: Sequence[Attempt]) -> list[Step]:
    found = []
    for name, text in run.detail["checkpoints"].items():
        checkpoint = Checkpoint.loads(text)
        if checkpoint.status != "done" or checkpoint.stored is None:
            continue
        stored = _time(checkpoint.stored)
        begun = [attempt.number for attempt in attempts if attempt.started <= stored]
        later = sum(attempt.started > stored for attempt in attempts)
        found.append((stored, Step(key_of(name)[0], begun[-1] if begun else 1, later)))
    return [step for _, step in sorted(found, key=lambda pair: pair[0])]
