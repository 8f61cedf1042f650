"""Which object keys we use: those that every store takes in the same way."""

import re

MAX_KEY_CHARS = 1_000  # S3 allows 1,024 bytes; our alphabet is ASCII
_SEGMENT = re.compile(r"[A-Za-z0-9!_.=@+,()\-]+")


def check_key(key: str) -> str:
    """`key` itself, or ValueError: stores disagree about empty segments, dots and odd characters, so we avoid them."""
    segments = key.split("/")
    if len(key) > MAX_KEY_CHARS or any(s in {".", ".."} or not _SEGMENT.fullmatch(s) for s in segments):
        raise ValueError(f"not a usable object key: {key[:200]!r}")
    return key


def check_prefix(prefix: str) -> str:
    """`prefix` itself, or ValueError unless it is a folder."""
    # Without the closing slash "tenants/a" would also reach "tenants/ab/…".
    if not prefix.endswith("/"):
        raise ValueError(f"a prefix must end in '/': {prefix!r}")
    check_key(prefix[:-1])
    return prefix
