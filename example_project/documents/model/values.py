"""Dates, amounts of money and percentages: what is written in figures."""

from __future__ import annotations

import re
from datetime import date
from typing import TYPE_CHECKING

from example_project.documents.model.vocabulary import MONTHS

if TYPE_CHECKING:
    from collections.abc import Iterator

_MONTH = r"(?P<{0}>" + "|".join(sorted(MONTHS, key=len, reverse=True)) + r")\b\.?"
_DAY = r"(?P<{0}>[0-3]?\d)(?:st|nd|rd|th|\.)?"
_YEAR = r"(?P<{0}>(?:19|20|21)\d\d)(?!\d)"

_DATE = re.compile(
    r"(?<![\w.,/-])(?:"
    # 2026-03-12, 2026/03/12, and with a time of day
    r"(?P<y1>(?:19|20|21)\d\d)(?P<s1>[-/.])(?P<m1>[01]?\d)(?P=s1)(?P<d1>[0-3]?\d)(?!\d|[-/.]\d)"
    r"(?:[T ]\d\d:\d\d(?::\d\d(?:\.\d{1,9})?)?(?:Z|[+-]\d\d:?\d\d)?)?"
    # 12.03.2026, 12/03/2026, 12-03-2026
    r"|(?P<a2>[0-3]?\d)(?P<s2>[-/.])(?P<b2>[0-3]?\d)(?P=s2)(?P<y2>(?:19|20|21)\d\d)(?!\d|[-/.]\d)"
    # 12 March 2026, 12th of March, 2026, 12-Mar-2026, 12. März 2026, 12 March
    rf"|{_DAY.format('d3')}(?:\s+of\s+|\s*-\s*|\s+){_MONTH.format('m3')}"
    rf"(?:(?:,?\s+|-){_YEAR.format('y3')})?"
    # March 12, 2026, March 12th 2026, March 12
    rf"|{_MONTH.format('m4')}\s+{_DAY.format('d4')}(?![\d:%]|[.,]\d)(?:,?\s+{_YEAR.format('y4')})?"
    # March 2026
    rf"|{_MONTH.format('m5')},?\s+{_YEAR.format('y5')}"
    r")(?!\w)",
    re.IGNORECASE,
)

_SYMBOL = r"(?:US\$|R\$|A\$|C\$|NZ\$|HK\$|[$€£¥₹₩₽₺₿]|zł|kr\.?(?=\s?\d))"
_ISO_CODE = (
    r"(?:EUR|USD|GBP|CHF|JPY|CNY|INR|SEK|NOK|DKK|PLN|CZK|HUF|CAD|AUD|NZD|SGD|ZAR|BRL|KRW|TRY)"
)


def _grouped(name: str) -> str:
    """Return a pattern for 1,250.00, 1.250,00, 1'250 and 1 250: one separator throughout."""
    return (
        rf"\d{{1,3}}(?:(?P<{name}>[,.'’\u00a0\u2009\u202f ])\d{{3}}(?:(?P={name})\d{{3}}){{0,4}})?"
        r"(?!\d)(?:[.,]\d{1,2})?(?![.,]?\d)"
    )


_PLAIN = r"(?:\d{1,2}(?:,\d\d){1,4},\d{3}|\d{1,15})(?:[.,]\d{1,2})?(?![.,]?\d)"  # 1,00,000 in India
_SCALE = r"(?:\s?(?:thousand|million|billion|trillion|mn|bn|Mio\.?|Mrd\.?|m|k|M|K|B)(?!\w))?"
_WORD = (
    r"(?:euros?|dollars?|pounds(?:\s+sterling)?|pence|cents?|francs?|yen|rupees?"
    r"|kron(?:er|or|a)|złoty)"
)

_AMOUNT = re.compile(
    r"(?<![\w.,])[-−+]?(?:"
    rf"(?:{_SYMBOL}|{_ISO_CODE}\b)\s?[-−]?(?:{_grouped('t1')}|{_PLAIN}){_SCALE}"
    rf"(?:\s?{_ISO_CODE}\b)?"
    rf"|(?:{_grouped('t2')}|{_PLAIN}){_SCALE}\s?(?:[€£¥₹₽₺$]|zł|kr(?!\w)|{_ISO_CODE}\b|{_WORD}\b)"
    r")(?!\w)"
)
_PERCENTAGE = re.compile(
    r"(?<![\w.,])[-−+]?\d{1,9}(?:[.,]\d{1,6})?\s?"
    r"(?:%|‰|per\s?cent\b|percentage points?\b)"
)


def find_dates(texts: list[str]) -> list[str]:
    """Return the dates in the texts, as written; the same day in another form is not repeated.

    A day without a year ("30 April") is left out where the same day is also given with its year.
    """
    found: list[tuple[str, tuple[int | None, int, int | None]]] = []
    for text in texts:
        for match in _DATE.finditer(text):
            value = _value(match)
            if value is not None:
                found.append((" ".join(match[0].split()).rstrip(".,"), value))
    dated = {(month, day) for _, (year, month, day) in found if year is not None}
    seen: set[tuple[int | None, int, int | None]] = set()
    kept: list[str] = []
    for written, value in found:
        if value in seen or (value[0] is None and value[1:] in dated):
            continue
        seen.add(value)
        kept.append(written)
    return kept


def _value(match: re.Match[str]) -> tuple[int | None, int, int | None] | None:
    """Return (year, month, day) of a match, or None if there is no such day."""
    parts = match.groupdict()
    if parts["y1"]:
        return _checked(int(parts["y1"]), int(parts["m1"]), int(parts["d1"]))
    if parts["y2"]:
        year, first, second = int(parts["y2"]), int(parts["a2"]), int(parts["b2"])
        # The day comes first unless that is impossible, or the slashes of 3/25/2026 say otherwise.
        return _checked(year, second, first) or _checked(year, first, second)
    if parts["m5"]:
        return int(parts["y5"]), MONTHS[parts["m5"].lower()], None
    number = "3" if parts["m3"] else "4"
    name = parts["m" + number]
    written_year = parts["y" + number]
    if not name[0].isupper() and written_year is None:
        return None  # "may 5": a verb and a figure
    year_or_none = int(written_year) if written_year else None
    return _checked(year_or_none, MONTHS[name.lower()], int(parts["d" + number]))


def _checked(year: int | None, month: int, day: int) -> tuple[int | None, int, int | None] | None:
    try:
        date(year or 2024, month, day)  # a leap year: 29 February may be meant
    except ValueError:
        return None
    return year, month, day


def find_amounts(texts: list[str]) -> list[str]:
    """Return the amounts of money in the texts, as written: with a currency, in figures."""
    return _unique(match[0] for text in texts for match in _AMOUNT.finditer(text))


def find_percentages(texts: list[str]) -> list[str]:
    """Return the percentages in the texts, as written."""
    return _unique(match[0] for text in texts for match in _PERCENTAGE.finditer(text))


def _unique(found: Iterator[str]) -> list[str]:
    kept: dict[str, str] = {}
    for text in found:
        written = " ".join(text.split())
        kept.setdefault(written.replace(" ", "").casefold(), written)
    return list(kept.values())
