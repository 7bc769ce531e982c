"""Extractive summaries: the sentences that say most of what the document says, in their order.

Each sentence is a vector of tf-idf weights, and its score is its mean similarity to all the others
(degree centrality, which is what TextRank tends to on such a graph), adjusted for where and how it
is written. The sum over all pairs is one product with the sum of the vectors, so that the cost is
linear in the length of the document.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import dataclass

from example_project.documents.model.markup import Block, Kind, blocks
from example_project.documents.model.sentences import split_sentences, terms, words

Vector = dict[str, float]

SHORTEST, LONGEST = 6, 45  # words; beyond these a sentence says too little, or too much at once
REDUNDANT = 0.55  # cosine similarity from which a sentence repeats one that was chosen
POOL = 60  # the best sentences from which the summary is chosen

_TERMINATED = re.compile(r"""[.!?…。！？]["'”’)\]」』]*$""")
_SCRIPT_WITHOUT_SPACES = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]")
_COURTESY = re.compile(
    r"^(?:dear|hello|hi|thank|thanks|many thanks|kind|best|yours|sincerely|please)\b"
    r"|(?:do not|don't) hesitate|look(?:ing)? forward|no signature is required|get in touch",
    re.IGNORECASE,
)
_REFERRING = re.compile(
    r"^(?:this|that|these|those|it|they|he|she|however|also|but|and|or|so|then|yet|see|for example"
    r"|e\.g|in addition|therefore|otherwise|here|as above|both|each|such|neither|any)\b",
    re.IGNORECASE,
)
_NOISE = re.compile(r"https?://|www\.|\w\(|[{}=<>\\]|\w_\w|--\w")
_DEFINITION = re.compile(
    r"""^["“'][^"”']{1,40}["”'](?: \([^()]{1,60}\))?,? (?:means?|refers?|includes?|shall mean)\b"""
)
_LABELLED = re.compile(r"^(?:[\w.+-]+ ){0,3}[\w.+-]+: |^(?:copyright|©|\(c\))", re.IGNORECASE)
_CONCLUDING = re.compile(
    r"\b(?:in (?:summary|short|conclusion)|we (?:conclude|propose|recommend)|as a result|overall"
    r"|i would (?:therefore )?like to|the (?:aim|purpose|goal|result) (?:of|is|was))\b",
    re.IGNORECASE,
)
_MANNERS = (
    (_COURTESY, 0.4),
    (_DEFINITION, 0.5),
    (_NOISE, 0.5),
    (_LABELLED, 0.6),
    (_CONCLUDING, 1.25),
    (re.compile(r"\d"), 1.1),
    (re.compile(r"[:?!]$"), 0.85),
)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A sentence that may stand in a summary."""

    index: int
    text: str
    opens_block: bool
    vector: Vector


def summarize(text: str, sentences: int = 3) -> str:
    """Return the `sentences` most central sentences of a text, in their original order.

    Markup, code, headings and tables are left out. A text that is shorter than the summary is
    returned as it is, without its markup.
    """
    if sentences < 1:
        raise ValueError(f"A summary of {sentences} sentences was asked for: ask for at least 1.")
    document = blocks(text)
    candidates = _candidates(document)
    if len(candidates) > sentences:
        candidates = _choose(candidates, _scores(candidates, _title(document)), sentences)
    return " ".join(candidate.text for candidate in candidates)


def _candidates(document: list[Block]) -> list[Candidate]:
    """Return whole sentences; where there are none, what comes nearest."""
    found: list[tuple[str, bool]] = []
    for demand in (_is_sentence, _is_phrase, bool):
        seen: set[str] = set()
        for block in document:
            if block.kind in (Kind.HEADING, Kind.CELL) and demand is not bool:
                continue
            if block.kind is Kind.FIELD and demand is not bool:
                continue
            for position, sentence in enumerate(split_sentences(block.text)):
                key = " ".join(words(sentence))
                if demand(sentence) and key not in seen:
                    seen.add(key)
                    found.append((sentence, position == 0))
        if found:
            break
    return _vectorised(found)


def _is_sentence(text: str) -> bool:
    length = len(words(text))
    if not (text[0].isalnum() or text[0] in "\"“'‘«(「『$€£"):
        return False
    if text.endswith(":"):
        return length >= 15
    return length >= SHORTEST and bool(_TERMINATED.search(text))


def _is_phrase(text: str) -> bool:
    return len(words(text)) >= 2


def _vectorised(found: list[tuple[str, bool]]) -> list[Candidate]:
    counts = [Counter(terms(sentence)) for sentence, _ in found]
    frequency = Counter(term for count in counts for term in count)
    total = len(found)
    rarity = {term: math.log(1 + total / df) for term, df in frequency.items()}
    return [
        Candidate(
            index,
            sentence,
            opens,
            _unit({t: (1 + math.log(n)) * rarity[t] for t, n in count.items()}),
        )
        for index, ((sentence, opens), count) in enumerate(zip(found, counts, strict=True))
    ]


def _unit(vector: Vector) -> Vector:
    norm = math.sqrt(sum(weight * weight for weight in vector.values())) or 1.0
    return {term: weight / norm for term, weight in vector.items()}


def _product(one: Vector, other: Vector) -> float:
    if len(other) < len(one):
        one, other = other, one
    return sum(weight * other.get(term, 0.0) for term, weight in one.items())


def _title(document: list[Block]) -> Vector:
    heading = next((block.text for block in document if block.kind is Kind.HEADING), "")
    return _unit(dict.fromkeys(terms(heading), 1.0))


def _scores(candidates: list[Candidate], title: Vector) -> list[float]:
    together: Vector = {}
    for candidate in candidates:
        for term, weight in candidate.vector.items():
            together[term] = together.get(term, 0.0) + weight
    central = [_product(c.vector, together) - 1 for c in candidates]  # less itself
    highest = max(central) or 1.0
    scores: list[float] = []
    for candidate, value in zip(candidates, central, strict=True):
        opening = 0.7 * math.exp(-1.4 * candidate.index)
        titled = 0.25 * _product(candidate.vector, title)
        scores.append((max(value, 0.0) / highest + opening + titled) * _manner(candidate))
    return scores


def _manner(candidate: Candidate) -> float:
    """Return how well a sentence reads on its own: length, wording, figures."""
    text = candidate.text
    length = len(words(text))
    if _SCRIPT_WITHOUT_SPACES.search(text):
        length //= 2
    factor = min(1.0, 0.3 + length / 20, math.sqrt(LONGEST / max(length, 1)))
    letters = [c for c in text if c.isalpha()]
    if sum(c.isupper() for c in letters) > 0.6 * len(letters):
        factor *= 0.5
    if _REFERRING.search(text) and candidate.index > 0:
        factor *= 0.75
    for pattern, weight in _MANNERS:
        if pattern.search(text):
            factor *= weight
    return factor * (1.1 if candidate.opens_block else 1.0)


def _choose(candidates: list[Candidate], scores: list[float], wanted: int) -> list[Candidate]:
    """Take the best sentence, then the best that adds something, and so on."""
    ranked = sorted(range(len(candidates)), key=lambda i: (-scores[i], i))[: max(POOL, 4 * wanted)]
    chosen: list[Candidate] = []
    overlap = dict.fromkeys(ranked, 0.0)
    while len(chosen) < wanted and ranked:
        best = max(ranked, key=lambda i: (overlap[i] < REDUNDANT, scores[i] * (1 - overlap[i]), -i))
        ranked.remove(best)
        chosen.append(candidates[best])
        for i in ranked:
            similarity = _product(candidates[i].vector, candidates[best].vector)
            overlap[i] = max(overlap[i], similarity)
    return sorted(chosen, key=lambda candidate: candidate.index)
