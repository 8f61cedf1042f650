"""What a piece of work that runs apart looks like: a function of plain data, and how it refuses its input."""

from collections.abc import Callable
from typing import Any

# Both ways only what JSON can say. `tell` may be called at any time; what it tells reaches the one who asked at once.
Tell = Callable[[dict[str, Any]], None]
Work = Callable[[dict[str, Any], Tell], dict[str, Any]]


class WorkRefused(Exception):
    """The input itself is at fault; `str()` says to people why."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
