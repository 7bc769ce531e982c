"""Companies: capitalised words that end in a legal form (Ltd, GmbH, Inc., Foundation, & Co)."""

from __future__ import annotations

import re
from dataclasses import dataclass

from example_project.documents.model.vocabulary import NEVER_A_NAME

# Case matters: "AG", "SE" and "Co" are legal forms, "ag", "se" and "co" are not.
_LEGAL_FORM = (
    r"(?:GmbH(?:\s&\sCo\.?\sKG(?:aA)?)?|mbH|AG|SE|KGaA|KG|OHG|UG|e\.\s?V\."
    r"|Inc\.?|INC\.?|Incorporated|Corp\.?|Corporation|L\.L\.C\.|LLC|L\.L\.P\.|LLP|LP"
    r"|(?:Co\.?,?\s)?(?:Ltd\.?|LTD\.?|Limited)|PLC|[Pp]lc|Pty\.?(?:\sLtd\.?)?|CIC"
    r"|S\.A\.R\.L\.|SARL|Sàrl|SAS|S\.A\.S?\.?|SA|S\.p\.A\.|SpA|S\.r\.l\.|Srl|B\.V\.|BV|N\.V\.|NV"
    r"|Oy|AB|ASA|A/S|ApS|Sp\.\sz\so\.o\.|Co\.|Foundation|Stiftung"
    r"|&\sCo(?:\.|mpany)?(?:\sKG)?|&\s(?:Sons|Partners|Cie\.?))(?![\w&])"
)
_FORM = re.compile(rf"(?<=[ ]){_LEGAL_FORM}")
_FORM_ALONE = re.compile(_LEGAL_FORM)
_FURTHER = re.compile(rf"[ ]{_LEGAL_FORM}|,[ ](?:Inc|LLC|Ltd|LP|Limited)\b\.?")
_WORD = re.compile(r"[^ ]+")
_NAME = re.compile(r"(?:[A-ZÀ-ÖØ-Þ]|[a-z][A-Z]|\d{1,4}[A-Za-z])[\w'’.+-]*$")
_OPENING = "(\"“'‘[/"
_JOINERS = frozenset({"&", "of", "for", "de", "und", "et"})
_REACH = 60  # characters before the legal form in which the name must start


@dataclass(frozen=True, slots=True)
class Span:
    """Where in a text a company stands."""

    start: int
    end: int
    text: str


def company_spans(text: str) -> list[Span]:
    """Return the companies in one block of text, in order, none inside another."""
    spans: list[Span] = []
    limit = 0
    for form in _FORM.finditer(text):
        start = _start_of_name(text, max(limit, form.start() - _REACH), form.start())
        if start is None or form.start() < limit:
            continue
        end = form.end()
        while further := _FURTHER.match(text, end):
            end = further.end()
        spans.append(Span(start, end, _without_full_stop(text, start, end)))
        limit = end
    return spans


def find_companies(texts: list[str]) -> list[str]:
    """Return the companies in the texts, in order of appearance, each once."""
    kept: dict[str, str] = {}
    for text in texts:
        for span in company_spans(text):
            kept.setdefault(re.sub(r"[\W_]+", "", span.text).casefold(), span.text)
    return list(kept.values())


def _start_of_name(text: str, window: int, form: int) -> int | None:
    """Walk back from a legal form over the words of the name; None if there are none."""
    found = [(match.start() + window, match[0]) for match in _WORD.finditer(text[window:form])]
    if found and window and text[window - 1] != " " and text[window] != " ":
        del found[0]  # cut in half by the window
    start: int | None = None
    name_words = 0
    while found:
        position, written = found.pop()
        word = written.lstrip(_OPENING)
        position += len(written) - len(word)
        if start is None:
            word = word.removesuffix(",")  # "GoPivotal, Inc."
        if word in _JOINERS or (word == "and" and _joins_partners(found, name_words)):
            if start is None:
                return None
            continue
        if not _NAME.match(word) or word.lower() in NEVER_A_NAME or not any(map(str.isalpha, word)):
            break
        if word.endswith(".") and len(word) > 3:
            break  # the end of the sentence before
        if start is None and _FORM_ALONE.fullmatch(word):
            break
        start = position
        name_words += 1
        if len(written) != len(word) and written[:1] in _OPENING:
            break
    return start


def _joins_partners(before: list[tuple[int, str]], name_words: int) -> bool:
    """Say whether "and" joins two words of one name, as in "Marks and Spencer plc"."""
    if name_words != 1 or not before or not _NAME.match(before[-1][1]):
        return False
    return (
        len(before) < 2 or not before[-2][1][:1].isupper() or before[-2][1].lower() in NEVER_A_NAME
    )


def _without_full_stop(text: str, start: int, end: int) -> str:
    """Return the company as written; "Ltd." at the end of the text has the text's full stop."""
    written = text[start:end]
    ends_block = not text[end:].strip(" )\"”’'")
    return written[:-1] if ends_block and written.lower().endswith("ltd.") else written
