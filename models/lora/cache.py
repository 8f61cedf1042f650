"""ByteLru: a dictionary that holds so many bytes, least recently used out first. Thread-safe; knows no adapter."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from threading import Lock
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class ByteLru(Generic[K, V]):
    """The newest entry always stays, however large: it is about to be used."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._num_bytes = 0
        self._entries: OrderedDict[K, tuple[V, int]] = OrderedDict()
        self._lock = Lock()

    @property
    def num_bytes(self) -> int:
        return self._num_bytes

    def get(self, key: K) -> V | None:
        with self._lock:
            if key not in self._entries:
                return None
            self._entries.move_to_end(key)
            return self._entries[key][0]

    def put(self, key: K, value: V, num_bytes: int) -> V:
        """Keep `value` and give it back; of two threads that bring the same key, the first one's stays."""
        with self._lock:
            if key in self._entries:
                return self._entries[key][0]
            self._entries[key] = (value, num_bytes)
            self._num_bytes += num_bytes
            while self._num_bytes > self._max_bytes and len(self._entries) > 1:
                self._num_bytes -= self._entries.popitem(last=False)[1][1]
            return value

    def values(self) -> list[V]:
        with self._lock:
            return [value for value, _ in self._entries.values()]

    def drop(self, is_unwanted: Callable[[K], bool]) -> None:
        with self._lock:
            for key in [key for key in self._entries if is_unwanted(key)]:
                self._num_bytes -= self._entries.pop(key)[1]
