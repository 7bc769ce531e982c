"""An offline "language model": it summarises, classifies and mines text, with nothing to install.

It stands in for a paid, rate-limited service, so that the example runs anywhere, gives the same
answers every time, and fails only when it is told to::

    from example_project.documents import model

    model.summarize(text, sentences=3)
    model.classify(text, categories=["invoice", "contract", "report"])
    model.extract(text, fields=["names", "dates", "amounts", "companies"])

    llm = model.FlakyModel(fail={"classify": 2})  # the first two calls per document: 503

How it reads, lowest first: `markup` turns a document into blocks, `sentences` cuts blocks into
sentences and words, `vocabulary` holds the word lists; `summary`, `categories` and `entities` (with
`values`, `companies` and `people`) each answer one question; `flaky` makes calls fail on purpose.
"""

from example_project.documents.model.categories import (
    UNKNOWN,
    Classification,
    UnknownCategory,
    classify,
    known_categories,
)
from example_project.documents.model.entities import UnknownField, extract, known_fields
from example_project.documents.model.flaky import FlakyModel, ModelUnavailable
from example_project.documents.model.summary import summarize

__all__ = [
    "UNKNOWN",
    "Classification",
    "FlakyModel",
    "ModelUnavailable",
    "UnknownCategory",
    "UnknownField",
    "classify",
    "extract",
    "known_categories",
    "known_fields",
    "summarize",
]
