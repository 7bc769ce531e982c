"""What one version begins and the other finishes: events of the app in ``versions.py``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from tests.faults.versioning import Client, Versions
from tests.processes import wait_until

__all__ = ["BEFORE_IT_LEAVES", "EARLY", "HELD", "UNTOUCHED", "Stories", "Story"]

End = tuple[str, str, Any]


@dataclass(frozen=True)
class Story:
    """Events that belong together: each has a number, and all have one key.

    Attributes:
        events: their names.
        left: the state of each of their runs when the first version leaves.
        ends: returns kind, state and result of all runs in the end, for the numbers of all events.
        more: names of events that the other version adds.
        options: of ``emit()``.
    """

    events: Sequence[str]
    left: Sequence[str]
    ends: Callable[[Sequence[int]], Sequence[End]]
    more: Sequence[str] = ()
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])


def succeeds(*results: Any) -> Callable[[Sequence[int]], Sequence[End]]:
    """Return what all end with, whatever their numbers."""
    return lambda _: [("event", "succeeded", result) for result in results]


PAGE = {
    "number": 2**53 + 1,
    "text": "Gr\u00fc\u00dfe \U0001f600",
    "price": "9.90",
    "printed": "2026-11-27T12:30:00Z",
}
ATTRIBUTES = {"subject": "s-1", "source": "urn:shop", "time": "2026-11-27T12:30:00Z"}
ABC = ["a", "b", "c"]
SAVED = {"saved": "a"}
STATES_OF_A_FAN = ["succeeded", "published", "succeeded"]
FAN: list[End] = [("event", "succeeded", "a")] * 3 + [("then", "succeeded", SAVED)]
FAN_IN: End = (
    *("fan-in", "succeeded"),
    [["succeeded", "a"], ["succeeded", "a"], ["succeeded", SAVED]],
)

HELD = Story(["v/held"], ["running"], succeeds(["a", "b"]))

#: What the first version's worker brings to a place where it stays.
EARLY = (
    Story(["v/plain"], ["succeeded"], succeeds(ABC)),
    Story(
        ["v/waits"],
        ["suspended"],
        lambda n: [("event", "succeeded", ["a", "b", "yes", f"answer-{n[0]}"])],
    ),
    Story(
        ["v/typed"],
        ["suspended"],
        succeeds(["Page", PAGE, 100_000, {"1": None, "f": 0.1, "n": -1, "t": [True, ""]}]),
    ),
    HELD,
    Story(["v/emits"], ["suspended"], succeeds(["b"])),
    Story(["v/stopped"], ["suspended"], lambda _: [("event", "cancelled", None)]),
    Story(
        ["v/fails"],
        ["failed"],
        lambda n: [("event", "failed", None), ("on_failure", "succeeded", f"{n[0]} is wrong")],
    ),
    Story(
        ["v/invokes"],
        ["suspended"],
        lambda n: [
            ("event", "succeeded", ["a", 2 * n[0] + 1, "b"]),
            ("invoke", "succeeded", 2 * n[0] + 1),
        ],
    ),
    Story(
        ["v/tail"],
        ["succeeded"],
        lambda _: [
            ("event", "succeeded", "a"),
            ("then", "succeeded", "a"),
            ("then", "succeeded", SAVED),
        ],
    ),
    Story(["v/fan"], STATES_OF_A_FAN, lambda _: FAN),
    Story(
        ["v/fan"], STATES_OF_A_FAN, lambda _: [*FAN, FAN_IN], options={"then": "versions.sum_up"}
    ),
    Story(["v/limited"] * 3, ["running", "gated", "gated"], succeeds(*[["a", "b"]] * 3)),
    Story(["v/one"] * 2, ["suspended", "gated"], succeeds(*[["a", "b"]] * 2)),
    Story(
        ["v/rated"] * 2,
        ["succeeded", "cancelled"],
        lambda _: [("event", "succeeded", ["a"]), *[("event", "cancelled", None)] * 2],
        more=["v/rated"],
    ),
    Story(
        ["v/once"],
        ["succeeded"],
        lambda _: [("event", "succeeded", ["a"]), ("event", "cancelled", None)],
        more=["v/once"],
    ),
    Story(["v/paused"] * 2, ["gated"] * 2, succeeds(["a"], ["a"])),
    Story(
        ["v/batch"] * 2,
        ["gated"] * 2,
        lambda n: [("event", "succeeded", [list(n), str(n[-1])])],
        more=["v/batch"],
    ),
)

#: The same, with a time at which they go on: it should not come before that version has left.
BEFORE_IT_LEAVES = (
    Story(["v/sleeps"], ["suspended"], succeeds(ABC)),
    Story(["v/times-out"], ["suspended"], succeeds(["a", None, "b"])),
    Story(["v/late"], ["suspended"], lambda _: [("event", "cancelled", None)]),
    Story(["v/retries"], ["retrying"], succeeds(["a", "b"])),
    Story(["v/step-retries"], ["suspended"], succeeds(["a", "again", "b"])),
    Story(
        ["v/parallel"],
        ["suspended"],
        lambda _: [
            ("event", "succeeded", ["a0", "a1", "a2", "a3", "b"]),
            *(("parallel", "succeeded", f"a{number}") for number in range(4)),
        ],
    ),
)

#: What no worker of the first version has seen.
UNTOUCHED = (
    Story(["v/plain"] * 3, ["published"] * 3, succeeds(ABC, ABC, ABC)),
    Story(["v/options"], ["published"], succeeds(["a"]), options=ATTRIBUTES),
    Story(["v/plain"], ["pending"], succeeds(ABC), options={"delay": 1.5}),
    Story(
        ["v/plain"],
        ["published"],
        lambda _: [("event", "cancelled", None)],
        options={"expires": 0.01},
    ),
    Story(
        ["v/quick-tail"],
        ["published"],
        lambda _: [("event", "succeeded", "a"), ("then", "succeeded", SAVED)],
    ),
    Story(
        ["v/fan"], ["published"] * 3, lambda _: [*FAN, FAN_IN], options={"then": "versions.sum_up"}
    ),
    Story(
        ["v/calls"],
        ["published"],
        lambda n: [
            ("event", "succeeded", ["a", *(2 * n[0] + 1 + number for number in range(3)), "b"]),
            ("invoke", "succeeded", 2 * n[0] + 1),
            *(("parallel", "succeeded", 2 * n[0] + 1 + number) for number in range(3)),
        ],
    ),
    Story(["v/throttled"] * 3, ["published", "gated", "gated"], succeeds(["a"], ["a"], ["a"])),
    Story(["v/soon"] * 2, ["gated"] * 2, lambda n: [("event", "succeeded", [list(n), str(n[-1])])]),
    Story(["v/quiet"] * 2, ["gated"] * 2, lambda n: [("event", "succeeded", [n[-1]])]),
)


@dataclass
class Told:
    """A story that was begun."""

    story: Story
    numbers: list[int]
    events: list[tuple[str, Any, dict[str, Any]]]
    runs: list[str]


class Stories:
    """Begins stories with one version, so that the other can finish them.

    Args:
        versions: the app.
        gate: returns what opens the way of those that wait for a file; it is given the name and the
            number of the event.
        seconds: for how long those sleep that do.
    """

    def __init__(
        self, versions: Versions, gate: Callable[[str, int], Path], *, seconds: float
    ) -> None:
        self.versions = versions
        self.gate = gate
        self.seconds = seconds
        self.told: list[Told] = []
        self._numbers = count(1)

    def begin(self, client: Client, stories: Sequence[Story]) -> list[Told]:
        """Emit the events of stories."""
        found: list[Told] = []
        for story in stories:
            told = Told(story, [], [], [])
            self.told.append(told)
            self._emit(client, told, story.events)
            found.append(told)
        return found

    def _emit(self, client: Client, told: Told, names: Sequence[str]) -> None:
        for name in names:
            n = next(self._numbers)
            key = f"k{told.numbers[0] if told.numbers else n}"
            gate = str(self.gate(name, n))
            data = {"n": n, "key": key, "gate": gate, "seconds": self.seconds}
            options = {"id": f"event-{n}", **told.story.options}
            told.numbers.append(n)
            told.events.append((name, data, options))
            told.runs += client.emit(name, data, **options)

    def wait_until_left(self, told: Sequence[Told]) -> None:
        """Wait until all runs are in the states in which the first version leaves them."""
        wait_until(lambda: not self.elsewhere(told), 60, lambda: f"{self.elsewhere(told)}")

    def elsewhere(self, told: Sequence[Told]) -> list[Any]:
        """Return the runs that are in other states than those."""
        pairs = [pair for each in told for pair in zip(each.runs, each.story.left, strict=True)]
        states = [(self.versions.run(run), state) for run, state in pairs]
        return [(run.subscription, str(run.state), s) for run, s in states if str(run.state) != s]

    def go_on(self, client: Client) -> None:
        """Have the other version do what those who wait wait for."""
        for told in self.told:
            self._emit(client, told, told.story.more)
            for n, (name, _, _) in zip(told.numbers, told.events, strict=True):
                answer = {"to": {"n": n}, "text": "yes"}
                client.emit("v/answer", answer, id=f"answer-{n}")
                if name == "v/stopped":
                    client.emit("v/stop", {"n": n}, id=f"stop-{n}")

    def check(self, shown: dict[str, Any]) -> None:
        """Check how the stories ended."""
        keys = {event["attributes"]["id"]: event["key"] for event in shown["events"]}
        for told in self.told:
            events = {keys[options["id"]] for _, _, options in told.events}
            ends = [
                (run["kind"], run["state"], run["detail"]["result"])
                for run in shown["runs"].values()
                if run["event"] in events
            ]
            expected = told.story.ends(told.numbers)
            assert sorted(ends, key=repr) == sorted(expected, key=repr), told.events
