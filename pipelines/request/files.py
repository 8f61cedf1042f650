"""Files in the object store that requests speak of."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StoredFile:
    """Bytes in the object store that a request needs, and what they must hash to."""

    key: str
    sha256: str  # hex
