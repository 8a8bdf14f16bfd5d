"""`Kept`: what was made of a file for one unit, and serves the next unit of the same file."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from pipelines import files

T = TypeVar("T")
State = tuple[tuple[str, files.Stamp | None], ...]
"""Files with their stamps."""


class Kept(Generic[T]):
    """The last value that a thread has put here, one at most, for as long as its files stay as
    they are.

    A value is in use or is here, never both: who takes it puts it back.

    Args:
        close: what is done with a value that nobody will take again.
    """

    def __init__(self, close: Callable[[T], None]):
        self._close = close
        self._here = threading.local()

    @staticmethod
    def state(*paths: str) -> State:
        """What the files are now, to be asked before they are read; counts as opening them."""
        for path in paths:
            files.tell(path)
        return tuple((path, files.stamp(path)) for path in paths)

    def take(self, state: State) -> T | None:
        """The value that was made of files in this state, if it is here. Any other is closed."""
        found: tuple[State, T] | None = vars(self._here).pop("found", None)
        if found is None or found[0] == state:
            return found and found[1]
        self._close(found[1])
        return None

    def clear(self) -> None:
        """Closes the value that is here, if there is one."""
        self.take(())

    def put(self, state: State, value: T) -> None:
        """Keeps the value, which was made of files that were in this state before."""
        self.clear()
        self._here.found = state, value
