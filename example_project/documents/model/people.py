"""People's names, by evidence: a run of capitalised words is a name if enough speaks for it.

For: a title before it, a known given name, initials, "by" or "signed" before it, a role after it, a
line of its own under "Kind regards". Against: a heading, a company, words such as "Street" or
"Agreement", and words that the same document also writes in lower case.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING

from example_project.documents.model.companies import company_spans
from example_project.documents.model.markup import Block, Kind
from example_project.documents.model.vocabulary import (
    ALSO_SURNAMES,
    BESIDE_A_NAME,
    GIVEN_NAMES,
    NEVER_A_NAME,
    NOT_A_PERSON,
    PARTICLES,
    ROLES,
    SPEECH_VERBS,
    TITLES,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

ENOUGH = 1.0
NO_PART_OF_A_NAME = NEVER_A_NAME | BESIDE_A_NAME

_WORD = re.compile(r"[^\W\d_]+(?:['’.-][^\W\d_]+)*\.?")
_ADDRESS = re.compile(r"@|://|www\.")
_PERSONAL = re.compile(
    r"(?:(?:[^\W\d_]\.)+[^\W\d_]?\.?"  # J. or J.R.
    r"|(?:Mc|Mac|O['’]|D['’]|De|Di|Le|La|Fitz|Van)?[^\W\d_](?:[^\W\d_A-ZÀ-ÖØ-Þ])+"  # McDonald
    r"(?:[-'’](?:[^\W\d_](?:[^\W\d_A-ZÀ-ÖØ-Þ])+))*)$"  # Jean-Luc
)
_INITIAL = re.compile(r"(?:[^\W\d_]\.)+$")
_BEFORE_STRONG = re.compile(
    r"(?:\b(?:by|signed|attn|attention|contact|contacts|dear|authors?|c/o|cc|named|name|maintainers?|"
    r"editors?|witness|sincerely|regards|colleague|director|officer|manager|engineer|counsel|auditor|"
    r"controller|partner|secretary|chair|president|consultant)\b\.?[:,]?\s*"
    r"|©\s*(?:\d{4}(?:\s?[-–,]\s?(?:\d{4}|present))*,?\s*)*"
    r"|\(c\)\s*(?:\d{4}(?:\s?[-–,]\s?(?:\d{4}|present))*,?\s*)*"
    r"|\bcopyright\s+(?:\d{4}(?:\s?[-–,]\s?(?:\d{4}|present))*,?\s*)+)(?:the\s)?$",
    re.IGNORECASE,
)
_BEFORE_WEAK = re.compile(
    r"\b(?:with|from|to|and|for|thanks|told|asked|met|of|our|colleagues)\s+$", re.IGNORECASE
)
_BEFORE_AGAINST = re.compile(
    r"\b(?:the|an|a|this|that|each|every|any|no|using|via|in|at|on)\s+$", re.IGNORECASE
)
_AFTER_ROLE = re.compile(
    r"\s?[,(–—-]\s?(?:\w+\s){0,4}?(?:" + "|".join(ROLES) + r")\b", re.IGNORECASE
)
_AFTER_MAIL = re.compile(r"\s?[,(<]?\s?[\w.+-]{1,64}@\w")
_AFTER_VERB = re.compile(
    r",?\s(?:who\s)?(?:has\s|have\s|had\s|also\s|will\s)?(?:"
    + "|".join(SPEECH_VERBS)
    + r")\b|,\swho\b"
)
_ROLE_LINE = re.compile(r"\b(?:" + "|".join(ROLES) + r")\b", re.IGNORECASE)
_CLOSING = re.compile(
    r"(?:regards|sincerely|faithfully|truly|wishes|respectfully|signed\b.*|for and on behalf of.*|"
    r"by|signature|date|name|grüßen|grüße)\W*$",
    re.IGNORECASE,
)
_PEOPLE_SECTION = re.compile(
    r"\b(?:authors?|maintainers?|contributors?|team|people|attendees|participants|present|credits|"
    r"thanks|acknowledge?ments)\b",
    re.IGNORECASE,
)
_JOINED = re.compile(r"(?:,? and | & )$")
_LISTED = re.compile(r", $")


@dataclass(slots=True)
class Person:
    """A candidate: its words as written, and what speaks for it."""

    words: list[str]
    titled: str
    score: float

    @property
    def text(self) -> str:
        """The name; a surname alone keeps its title."""
        name = " ".join(self.words)
        return f"{self.titled} {name}" if self.titled and len(self.words) == 1 else name

    @property
    def surname(self) -> str:
        """What "Ms Keller" shares with "Maria Keller"."""
        return self.words[-1].casefold()


@dataclass(frozen=True, slots=True)
class Against:
    """What the rest of the document says against words as names."""

    in_lower_case: set[str]
    starts_company: set[str]


@dataclass(frozen=True, slots=True)
class Place:
    """A block in which names are looked for, and what stands around it."""

    text: str
    previous: str
    following: str
    section: str


@dataclass(frozen=True, slots=True)
class Word:
    """A word of a block, and where it stands."""

    start: int
    end: int
    text: str


def find_people(document: list[Block]) -> list[str]:
    """Return the people in a document, in order of appearance, each once, in the fullest form."""
    seen_in_lower_case = {
        word.rstrip(".")
        for block in document
        for part in block.text.split()
        if not _ADDRESS.search(part)
        for word in _WORD.findall(part)
        if word.islower()
    }
    company_words = {
        word.lower()
        for block in document
        for span in company_spans(block.text)
        for word in span.text.split()[:1]
    }
    against = Against(seen_in_lower_case - GIVEN_NAMES, company_words - GIVEN_NAMES)
    return _distinct([person for place in _places(document) for person in _people(place, against)])


def _places(document: list[Block]) -> Iterator[Place]:
    section = ""
    for index, block in enumerate(document):
        if block.kind is Kind.HEADING:
            section = block.text
            continue
        previous = document[index - 1].text if index else ""
        following = document[index + 1].text if index + 1 < len(document) else ""
        yield Place(block.text, previous, following, section)


def _distinct(found: list[Person]) -> list[str]:
    """Merge "Ms Keller" and "M. Keller" into "Maria Keller"; drop what has too little evidence."""
    certain = {" ".join(p.words).casefold() for p in found if p.score >= ENOUGH}
    kept: dict[str, Person] = {}
    for person in found:
        key = " ".join(person.words).casefold()
        if key in certain:
            kept.setdefault(key, person)
    full = {
        p.surname: p for p in kept.values() if len(p.words) > 1 and not _INITIAL.match(p.words[0])
    }
    named: dict[str, None] = {}
    for person in kept.values():
        fuller = full.get(person.surname)
        if fuller is not None and (len(person.words) == 1 or _abbreviates(person, fuller)):
            named.setdefault(fuller.text)
        else:
            named.setdefault(person.text)
    return list(named)


def _abbreviates(short: Person, fuller: Person) -> bool:
    return bool(_INITIAL.match(short.words[0])) and short.words[0][0] == fuller.words[0][0]


def _people(place: Place, against: Against) -> Iterator[Person]:
    text = place.text
    companies = company_spans(text)
    after_person = -1
    for run in _runs(text):
        # The spans are in order and do not overlap: one look, at the first that may reach in.
        near = bisect_right(companies, run[0].start, key=lambda span: span.end)
        if near < len(companies) and companies[near].start < run[-1].end:
            continue
        for part in _parts(run):
            person = _judge(place, part, against, after_person)
            if person is not None:
                if person.score >= ENOUGH:
                    after_person = part[-1].end
                yield person


def _runs(text: str) -> Iterator[list[Word]]:
    """Yield the runs of capitalised words (and the particles within) that only spaces part."""
    run: list[Word] = []
    for match in _WORD.finditer(text):
        word = Word(match.start(), match.end(), match[0])
        adjacent = run and text[run[-1].end : word.start] in (" ", "\u00a0")
        if adjacent and run[-1].text.endswith(".") and not _may_be_followed(run[-1].text):
            adjacent = False
        capital = word.text[0].isupper()
        if run and not (adjacent and (capital or word.text in PARTICLES)):
            yield run
            run = []
        if capital or (run and word.text in PARTICLES):
            run.append(word)
    if run:
        yield run


def _may_be_followed(word: str) -> bool:
    return bool(_INITIAL.match(word)) or word.rstrip(".").lower() in TITLES


def _parts(run: list[Word]) -> Iterator[list[Word]]:
    """Cut a run at the words that belong to no name."""
    part: list[Word] = []
    for word in run:
        if word.text.rstrip(".").lower() in NO_PART_OF_A_NAME and not _INITIAL.match(word.text):
            if part:
                yield part
            part = []
        else:
            part.append(word)
    if part:
        yield part


def _judge(place: Place, part: list[Word], against: Against, after_person: int) -> Person | None:
    titled = ""
    while part and part[0].text.rstrip(".").lower() in TITLES:
        titled, part = part[0].text, part[1:]
    while part and part[-1].text in PARTICLES:
        part = part[:-1]
    if not part:
        return None
    words = [word.text for word in part]
    if not words[-1].endswith(".") or not _INITIAL.match(words[-1]):
        words[-1] = words[-1].rstrip(".")
    words[-1] = words[-1].removesuffix("'s").removesuffix("’s")
    given = words[0].lower().split("-")[0] in GIVEN_NAMES
    words = [w.title() if w.isupper() and len(w) > 2 and given else w for w in words]
    if not _could_be(words, against, given=given, titled=bool(titled)):
        return None
    score = 0.4 + _evidence(place, part, titled=bool(titled))
    score += 0.7 if given and len(words) > 1 else 0.0
    score += 1.0 if titled else 0.0
    if len(words) > 1 and any(_INITIAL.match(w) or w in PARTICLES for w in words):
        score += 0.5
    if after_person >= 0:
        between = place.text[after_person : part[0].start]
        score += 0.6 if _JOINED.fullmatch(between) else 0.4 if _LISTED.fullmatch(between) else 0.0
    if words[-1].lower() in ALSO_SURNAMES:
        score -= 0.5
    return Person(words, titled, score)


def _could_be(words: list[str], against: Against, *, given: bool, titled: bool) -> bool:
    names = [w for w in words if w not in PARTICLES]
    if len(names) > 4 or (len(names) < 2 and not titled):
        return False
    if not all(_PERSONAL.match(w) for w in names) or _INITIAL.match(names[-1]):
        return False
    for word in names:
        lower = word.lower()
        if lower in NOT_A_PERSON and not (
            lower in ALSO_SURNAMES and word is names[-1] and (given or titled)
        ):
            return False
        if lower in against.in_lower_case and not titled:
            return False
    return titled or names[0].lower() not in against.starts_company


def _evidence(place: Place, part: list[Word], *, titled: bool) -> float:
    """Return what the surroundings of a run say for or against a person."""
    text = place.text
    start, end = part[0].start, part[-1].end
    before, after = text[max(0, start - 48) : start], text[end : end + 60]
    score = 0.0
    if _BEFORE_STRONG.search(before):
        score += 0.7
    elif _BEFORE_WEAK.search(before):
        score += 0.2
    elif _BEFORE_AGAINST.search(before) and not titled:
        score -= 0.5
    if _AFTER_ROLE.match(after) or _AFTER_MAIL.match(after):
        score += 0.6
    elif _AFTER_VERB.match(after):
        score += 0.4
    alone = not before.strip() and not after.strip(" ,.")
    if alone and (
        _CLOSING.search(place.previous)
        or _PEOPLE_SECTION.search(place.section)
        or (_ROLE_LINE.search(place.following) and len(place.following) < 60)
    ):
        score += 0.7
    return score
