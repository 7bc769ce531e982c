"""Which kind of document a text is, by the words and the forms that are typical of each kind.

A feature is a phrase or a pattern with a weight. It counts with a damped term frequency, so that
saying "invoice" forty times in a contract does not outweigh everything else a contract says, and
it counts more in the title. The confidence is a category's share of all the evidence found, with a
fixed amount set aside for "none of these": little evidence gives a low confidence, however
one-sided it is.
"""

from __future__ import annotations

import math
import re
import sys
from collections import Counter
from dataclasses import dataclass
from difflib import get_close_matches

from example_project.documents.model.markup import Kind, blocks

if sys.version_info >= (3, 12):
    from typing import TypedDict
else:  # pydantic reads back only this one before Python 3.12
    from typing_extensions import TypedDict

UNKNOWN = "unknown"

DOUBT = 6.0  # evidence set aside for "none of these"
CONTRAST = 1.5  # above 1, the strongest category gains on the others
TITLE = 3.0  # how much more a feature counts in the title


class Classification(TypedDict):
    """The answer of `classify`."""

    category: str
    confidence: float
    scores: dict[str, float]


@dataclass(frozen=True, slots=True)
class Features:
    """What is typical of one category: phrases by weight, and patterns over the raw text."""

    phrases: dict[float, str]
    patterns: dict[str, float]


_FEATURES: dict[str, Features] = {
    "invoice": Features(
        {
            3.0: """
                invoice | amount due | bill to | billed to | invoice number | invoice date |
                total due | balance due | rechnung
            """,
            2.0: """
                subtotal | unit price | due date | payment due | net 30 | iban | swift | bic |
                sort code | purchase order | vat number | remittance | invoiced
            """,
            1.0: """
                vat | quantity | qty | total | tax | payable | payment terms | bank transfer |
                discount | hourly rate | hours
            """,
        },
        {
            r"(?im)^[^\w\n]{0,20}(?:total|amount|balance)\b.{0,40}\d[\d.,]*": 2.0,
            r"(?i)\bINV[-/ ]?\d{2,}": 2.0,
        },
    ),
    "contract": Features(
        {
            3.0: """
                agreement | contract | hereinafter | in witness whereof | the parties |
                governing law | whereas
            """,
            2.0: """
                shall | party | termination | terminate | confidentiality | indemnify |
                indemnification | effective date | entire agreement | force majeure | breach |
                jurisdiction | severability | intellectual property
            """,
            1.0: """
                clause | obligations | liability | supplier | customer | tenant | landlord | lessor
                | lessee | contractor | written notice | amendment | assignment | warranties |
                schedule | deliverables
            """,
        },
        {
            r"(?i)\bbetween\b[^.]{3,200}\band\b": 1.0,
            r"(?m)^[ \t]{0,20}\d{1,2}\.\d{1,2}\.?[ \t]+[A-Z]": 1.0,
        },
    ),
    "licence": Features(
        {
            3.0: """
                redistribution and use | redistributions | permission is hereby granted |
                copyright notice | source and binary forms | derivative works | licensor |
                licensed under | copyleft | sublicense
            """,
            2.0: """
                license | licence | copyright | all rights reserved | as is | merchantability |
                royalty free | free of charge | fitness for a particular purpose | noninfringement |
                contributors | grant | granted
            """,
            1.0: """
                warranties | disclaimer | damages | liability | redistribute | modification |
                distribute | software | patent
            """,
        },
        {r"(?i)copyright (?:\(c\)|©|\d{4})": 2.0, r"\bAS IS\b": 2.0},
    ),
    "report": Features(
        {
            3.0: """
                quarterly report | annual report | executive summary | key findings | year on year |
                year over year | report | quarter | fiscal year
            """,
            2.0: """
                findings | outlook | results | revenue | operating margin | compared with |
                compared to | forecast | increased | decreased | rose | fell | grew | declined |
                recommendations | methodology | highlights
            """,
            1.0: """
                growth | margin | figures | analysis | survey | period | average | percent | trend |
                performance | costs | headcount
            """,
        },
        {r"\b(?:Q[1-4]|H[12])(?:\s+20\d\d)?\b": 2.0, r"\d\s?%|per cent\b": 1.0},
    ),
    "manual": Features(
        {
            3.0: """
                user manual | user guide | owner's manual | operating instructions | troubleshooting
                | safety instructions | technical specifications
            """,
            2.0: """
                manual | caution | warning | maintenance | power supply | button | press and hold |
                reset | appliance | switch off | switch on | unplug | battery | cleaning |
                spare parts | assembly
            """,
            1.0: """
                device | unit | settings | display | operate | operation | indicator | cable | screw
                | instructions | user | remove | replace
            """,
        },
        {
            r"(?im)^[^\w\n]{0,20}(?:warning|caution|danger)\b\W": 2.0,
            r"(?i)\b(?:see|chapter|figure|fig\.) ?\d": 1.0,
        },
    ),
    "readme": Features(
        {
            3.0: """
                pip install | npm install | cargo install | go get | brew install | getting started
                | quick start | quickstart | readme | pull requests | git clone | bug reports
            """,
            2.0: """
                installation | usage | contributing | documentation | github | pypi | changelog |
                open source | requirements | issue tracker | features | badge
            """,
            1.0: """
                library | package | module | api | python | javascript | command line | example |
                supports | install | dependencies | repository
            """,
        },
        {
            r"(?m)^[ \t]{0,20}(?:```|~~~|\.\. code)": 2.0,
            r"(?:\[!\[|!\[[^\]]{0,100}\]\(|\.\. image::)": 3.0,
            r"(?im)^#{0,6}[ \t]{0,20}(?:install(?:ation|ing)?|usage|licen[sc]e|contributing"
            r"|features|documentation)[^\w\n]{0,20}$": 2.0,
        },
    ),
    "changelog": Features(
        {
            3.0: """
                changelog | change log | release notes | release history | unreleased | bugfixes |
                bug fixes | breaking changes | what's new | whats new | version history
            """,
            2.0: """
                deprecated | fixed | bugfix | backwards incompatible | dropped support |
                added support | removed | yanked | released
            """,
            1.0: """
                added | changed | fixes | improved | version | release | support for | regression |
                security
            """,
        },
        {
            r"(?im)^(?:#{1,6}[ \t]{0,20}|version |release |v)?\[?v?\d{1,4}\.\d{1,3}(?:\.\d{1,3})?"
            r"(?:(?:a|b|rc)\d{1,3})?\]?[ \t]{0,20}(?:$|[-–—:(])": 3.0,
            r"(?m)^[ \t]{0,20}[-*+][ \t]{1,20}(?:fix|fixed|add|added|remove|removed|change|changed"
            r"|drop|bump)\b": 2.0,
            r"(?:\(#|GH-|#)\d{2,6}\b": 2.0,
        },
    ),
    "letter": Features(
        {
            3.0: """
                dear | yours sincerely | yours faithfully | kind regards | best regards |
                yours truly | sincerely yours | warm regards | with best wishes
            """,
            2.0: """
                i am writing | thank you for your letter | look forward to hearing |
                look forward to meeting | enclosed | do not hesitate | enclosure | in reply to |
                please find | to whom it may concern
            """,
            1.0: """
                sincerely | regards | i would | we would | your letter | my | grateful | pleased |
                apologise | apologize | reply | cc
            """,
        },
        {
            r"(?m)^[ \t]{0,20}Dear \S": 4.0,
            r"(?im)^[ \t]{0,20}(?:yours|kind|best|warm|sincerely|with)[\w ]{0,24}"
            r"(?:regards|sincerely|faithfully|truly|wishes|thanks)?,[ \t]{0,20}$": 3.0,
            r"(?m)\b(?:I|my|we) (?:am|would|have|enclose|hope|look)\b": 1.0,
        },
    ),
    "policy": Features(
        {
            3.0: """
                privacy policy | this policy | code of conduct | acceptable use | policy applies |
                data protection | policy statement | security policy | travel policy
            """,
            2.0: """
                policy | policies | employees | compliance | prohibited | must not | disciplinary |
                personal data | scope | responsibilities | review date | reporting a vulnerability |
                harassment | violation | exceptions
            """,
            1.0: """
                must | staff | applies to | guidelines | consent | procedure | security | approval |
                approved | responsible | permitted
            """,
        },
        {
            r"(?im)^[^\w\n]{0,20}(?:\d{1,2}\.? ?)?(?:purpose|scope|responsibilities|exceptions"
            r"|enforcement)[^\w\n]{0,20}$": 2.0
        },
    ),
    "tutorial": Features(
        {
            3.0: """
                tutorial | in this tutorial | you will learn | you'll learn | step by step | let's |
                prerequisites | next steps
            """,
            2.0: """
                lesson | exercise | beginner | walkthrough | we'll | you should see | first step |
                for beginners | try it | congratulations | now we | we will | create a
            """,
            1.0: """
                learn | open | run | following | example | type | save | click | add | file | now |
                next
            """,
        },
        {
            r"(?im)^[^\w\n]{0,20}(?:step|part|lesson) \d": 3.0,
            r"(?m)^[ \t]{0,20}(?:```|~~~|\.\. code)": 1.0,
        },
    ),
}

_ALIASES = {
    "agreement": "contract",
    "bill": "invoice",
    "changes": "changelog",
    "guide": "tutorial",
    "handbook": "manual",
    "license": "licence",
    "release notes": "changelog",
}


def _any_of(phrases: str) -> re.Pattern[str]:
    """Return a pattern for whole phrases, the longest first."""
    listed = sorted((phrase.strip() for phrase in phrases.split("|")), key=len, reverse=True)
    return re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, listed))})(?!\w)")


_PHRASES = {
    category: [(weight, _any_of(phrases)) for weight, phrases in features.phrases.items()]
    for category, features in _FEATURES.items()
}
_PATTERNS = {
    category: [(weight, re.compile(pattern)) for pattern, weight in features.patterns.items()]
    for category, features in _FEATURES.items()
}


class UnknownCategory(ValueError):  # noqa: N818 - named for the problem
    """`classify` was asked for a category that it has no features for."""

    def __init__(self, category: str) -> None:
        super().__init__(category)
        self.category = category

    def __str__(self) -> str:
        near = get_close_matches(self.category.lower(), known_categories(), n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        return (
            f"Unknown category {self.category!r}.{hint} "
            f"Known categories: {', '.join(known_categories())}."
        )


def known_categories() -> list[str]:
    """Return the categories that `classify` can tell apart, other spellings included."""
    return sorted([*_FEATURES, *_ALIASES])


def classify(text: str, categories: list[str]) -> Classification:
    """Return which of the `categories` a text belongs to, how surely, and the score of each.

    The scores add up to less than 1: the rest is the chance that it is none of these. Where
    nothing in the text speaks for any of them, the category is `UNKNOWN` and the confidence 0.
    """
    if not categories:
        raise ValueError(
            f"No categories were given. Pass some of: {', '.join(known_categories())}."
        )
    canonical = {category: _canonical(category) for category in categories}
    body, title = _read(text)
    evidence = {name: _evidence(name, text, body, title) for name in set(canonical.values())}
    strength = {name: value**CONTRAST for name, value in evidence.items()}
    total = sum(strength.values()) + DOUBT**CONTRAST
    scores = {category: round(strength[name] / total, 3) for category, name in canonical.items()}
    best = max(scores, key=lambda category: scores[category])
    if scores[best] == 0:
        return {"category": UNKNOWN, "confidence": 0.0, "scores": scores}
    return {"category": best, "confidence": scores[best], "scores": scores}


def _canonical(category: str) -> str:
    name = category.strip().lower()
    name = _ALIASES.get(name, name)
    if name not in _FEATURES:
        raise UnknownCategory(category)
    return name


def _read(text: str) -> tuple[str, str]:
    """Return the visible text and its title, in lower case and with plain apostrophes."""
    document = blocks(text)
    body = "\n".join(block.text for block in document).replace("’", "'").lower()
    headings = [block.text for block in document[:6] if block.kind is Kind.HEADING][:1]
    opening = document[0].text if document else ""
    is_title = len(opening) < 80 and not opening.endswith((".", "!", "?"))
    title = headings[0] if headings else opening if is_title else ""
    return body, title.replace("’", "'").lower()


def _evidence(category: str, text: str, body: str, title: str) -> float:
    """Return how much in a text speaks for a category."""
    thousands = max(1.0, len(body) / 6000)  # of words, roughly: a long text says everything once
    found = 0.0
    for weight, pattern in _PHRASES[category]:
        counts = Counter(pattern.findall(body))
        found += weight * sum(math.log1p(count / thousands) for count in counts.values())
        found += TITLE * weight * len(set(pattern.findall(title)))
    for weight, pattern in _PATTERNS[category]:
        count = sum(1 for _ in pattern.finditer(text))
        found += weight * math.log1p(count / thousands)
    return found
