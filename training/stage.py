"""Stage: a step that is taken for each of many items, once. Counts what goes in and out; knows no picture."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

Item = TypeVar("Item")
Value = TypeVar("Value")  # where there is a mark: what JSON can say


@dataclass(frozen=True, slots=True)
class Dropped:
    """What a step says of an item that goes no further: the one reason why."""

    reason: str


class Mark:
    """What is done already, one line of JSON each; a line that a kill tore apart does not count."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        written = path.read_bytes() if path.exists() else b""
        whole = written[: written.rfind(b"\n") + 1]
        self._done: dict[str, Any] = dict(json.loads(line) for line in whole.splitlines())
        self._file = path.open("ab")
        self._file.truncate(len(whole))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def __contains__(self, key: str) -> bool:
        return key in self._done

    def __getitem__(self, key: str) -> Any:  # noqa: ANN401 - whatever JSON can say
        return self._done[key]

    def __setitem__(self, key: str, value: object) -> None:
        """Handed to the system at once, so that it outlives this process."""
        self._file.write(json.dumps([key, value], allow_nan=False).encode() + b"\n")
        self._file.flush()
        self._done[key] = value


class Stage(Generic[Item, Value]):
    """Maps items to pairs of an item and what the step says of it, without those that it drops.

    With a mark, what was said of an item is found again by its key, in which must be all that decides it.
    """

    def __init__(
        self,
        step: Callable[[Item], Value | Dropped],
        *,
        tell: Callable[[int], None] | None = None,
        mark: Mark | None = None,
        key: Callable[[Item], str] | None = None,
    ) -> None:
        assert (mark is None) == (key is None), "a mark finds items by their keys"
        self._step = step
        self._tell = tell
        self._mark = mark
        self._key = key
        self.num_in = 0
        self.num_found = 0  # of those: done by an earlier run
        self.dropped: list[tuple[Item, str]] = []  # and why

    @property
    def counts(self) -> dict[str, int]:
        """How many came, how many went on, and for each reason how many did not, the most frequent first."""
        reasons = Counter(reason for _, reason in self.dropped)
        return {"in": self.num_in, "out": self.num_in - reasons.total(), **dict(reasons.most_common())}

    def __call__(self, items: Iterable[Item]) -> Iterator[tuple[Item, Value]]:
        """Lazily, in the order in which they come; `tell` hears how many are done."""
        for item in items:
            said = self._say(item)
            self.num_in += 1
            if self._tell is not None:
                self._tell(self.num_in)
            if isinstance(said, Dropped):
                self.dropped.append((item, said.reason))
            else:
                yield item, said

    def _say(self, item: Item) -> Value | Dropped:
        if self._mark is None or self._key is None:
            return self._step(item)
        key = self._key(item)
        if key in self._mark:
            self.num_found += 1
            found = self._mark[key]
            return Dropped(found["dropped"]) if "dropped" in found else found["value"]
        said = self._step(item)
        self._mark[key] = {"dropped": said.reason} if isinstance(said, Dropped) else {"value": said}
        return said
