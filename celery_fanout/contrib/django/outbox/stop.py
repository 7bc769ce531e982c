"""SIGTERM and Ctrl-C, as something that can be waited for together with other files."""

from __future__ import annotations

import os
import select
import signal
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from typing_extensions import Self


class Stop:
    """Whether this process was asked to end.

    An event of :mod:`threading` must not be set by a signal's handler, which may interrupt the
    thread that waits for it where it holds the event's lock. A pipe has no lock.
    """

    def __init__(self) -> None:
        self._asked = False
        self._reader, self._writer = os.pipe()
        self._before: dict[int, Any] = {}

    def __bool__(self) -> bool:
        return self._asked

    def __enter__(self) -> Self:
        """Listen to SIGTERM and SIGINT; the second Ctrl-C does what it always does."""
        self._before = {
            number: signal.signal(number, self._handle)
            for number in (signal.SIGTERM, signal.SIGINT)
        }
        return self

    def __exit__(self, *exc_info: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        os.close(self._reader)
        os.close(self._writer)

    def _handle(self, *_: object) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        self.ask()

    def ask(self) -> None:
        """Ask this process to end."""
        if not self._asked:
            self._asked = True
            os.write(self._writer, b".")

    def wait(self, seconds: float, files: Sequence[Any] = ()) -> None:
        """Wait until the time is over, one of the files can be read, or it is time to end."""
        select.select([self._reader, *files], [], [], seconds)
