"""What the clients of a chaos run saw: one JSON line an event, on disk before anybody relies on it.

The checks read this file and not the memory of the clients, so a run whose harness was killed can still be judged.
"""

import json
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

Way = Literal["wait_b64", "wait_url", "async", "twin", "cancel", "hang_up"]
Kind = Literal[
    "ordered",  # detail: the order
    "accepted",  # the client saw the id of its job
    "answered",  # it saw pictures; detail: sha256 of those that came as bytes
    "ended",  # it saw its job in a final state; detail: status, code
    "refused",  # an answer that is no success; detail: status, code
    "unanswered",  # the connection broke, or nothing came in time; detail: error
    "fault",  # detail: fault, what was done to it
    "delivered",  # a webhook came; detail: headers, body, answer
]


@dataclass(frozen=True, slots=True)
class Order:
    """One thing a client wants, told apart from all others by its id, which travels in the job's metadata."""

    id: str
    tenant: str
    picture: int  # index into the known pictures
    num_images: int
    way: Way
    is_keyed: bool  # sent with an Idempotency-Key, and again until an answer came
    at_s: float = 0.0  # when in its round it is sent


@dataclass(frozen=True, slots=True)
class Entry:
    """One event. `order` is empty where none is meant."""

    at_s: float
    round: int
    kind: Kind
    order: str = ""
    job: str = ""
    detail: dict[str, Any] = field(default_factory=dict)


class Journal:
    """Append-only. Safe to write from many threads."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.round = 0
        self._lock = threading.Lock()
        self._file = path.open("ab")

    def write(self, kind: Kind, *, order: str = "", job: str = "", **detail: Any) -> None:  # noqa: ANN401 - JSON
        with self._lock:
            entry = Entry(time.time(), self.round, kind, order, job, detail)
            self._file.write(json.dumps(asdict(entry)).encode() + b"\n")
            self._file.flush()
            os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


def read_journal(path: Path, *, round_: int | None = None) -> Iterator[Entry]:
    """The entries of one round, or of all. A last line that was cut short by a kill is left out."""
    with path.open("rb") as file:
        for line in file:
            if line.endswith(b"\n") and ((entry := Entry(**json.loads(line))).round == round_ or round_ is None):
                yield entry
