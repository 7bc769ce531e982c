"""A language model, often too busy."""

from dataclasses import dataclass, field

from proj.calls import note

#: How many of the next requests fail.
failures = 0


class Overloaded(Exception):  # noqa: N818 - reads better in the guides
    """Ask again later."""


@dataclass
class Response:
    status: int = 200
    headers: dict = field(default_factory=dict)
    text: str = ""


def request(text):
    global failures  # noqa: PLW0603 - tests set it
    note("request")
    if failures:
        failures -= 1
        return Response(429, {"Retry-After": "17"})
    return Response(text=text.upper())


def _answer(question, answer):
    global failures  # noqa: PLW0603 - tests set it
    note(question)
    if failures:
        failures -= 1
        raise Overloaded("try again later")
    return answer


def summarize(text):
    return _answer("summarize", text[:10])


def classify(text, categories=("invoice", "contract")):
    return _answer("classify", categories[0])
