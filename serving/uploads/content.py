"""What uploads may be: purposes, the content types of each, and names that are fit to be shown. Pure."""

import unicodedata
from typing import Literal

Purpose = Literal["image", "video"]

# Types in one set are told apart by nobody: one demuxer reads them, and clients name them as they like.
FAMILIES: dict[Purpose, tuple[frozenset[str], ...]] = {
    "image": (
        frozenset({"image/jpeg", "image/jpg", "image/pjpeg"}),
        frozenset({"image/png", "image/x-png"}),
        frozenset({"image/webp"}),
    ),
    "video": (
        frozenset({"video/mp4", "video/quicktime", "video/x-m4v", "video/3gpp", "video/3gpp2"}),
        frozenset({"video/webm", "video/x-matroska", "video/matroska"}),
        frozenset({"video/x-msvideo", "video/avi", "video/msvideo", "video/vnd.avi"}),
        frozenset({"video/mp2t", "video/mpeg", "video/mp2p"}),
        frozenset({"video/x-flv"}),
        frozenset({"video/ogg"}),
        frozenset({"video/x-ms-wmv", "video/x-ms-asf"}),
    ),
}
# What the demuxers that read videos are called → what they read.
CONTAINERS = {
    "mov": "video/mp4",
    "matroska": "video/x-matroska",
    "avi": "video/x-msvideo",
    "mpegts": "video/mp2t",
    "mpeg": "video/mpeg",
    "mpegvideo": "video/mpeg",
    "flv": "video/x-flv",
    "ogg": "video/ogg",
    "asf": "video/x-ms-asf",
}
EXTENSIONS = {"image/jpeg": "jpg", "image/png": "png", "image/webp": "webp"}
ANYTHING = "application/octet-stream"  # what forms say when they do not know
MAX_NAME_CHARS = 200
NAMELESS = "file"


def plain_type(content_type: str) -> str:
    """Without parameters, in lower case."""
    return content_type.partition(";")[0].strip().lower()


def types_of(purpose: Purpose) -> list[str]:
    """What may be said of a file with this purpose."""
    return sorted(content_type for family in FAMILIES[purpose] for content_type in family)


def is_same_kind(purpose: Purpose, claimed: str, found: str) -> bool:
    """Whether a file of type `found` may have been announced as `claimed`."""
    return claimed == found or any({claimed, found} <= family for family in FAMILIES[purpose])


def shown_name(name: str) -> str:
    """A client's name for a file, fit for people and headers. It never becomes part of a path or a key."""
    # Half surrogate pairs cannot be stored, controls and overrides of direction would fool whoever reads the name.
    text = unicodedata.normalize("NFC", name.encode("utf-8", "replace").decode())
    text = "".join(c for c in text if unicodedata.category(c)[0] != "C")
    text = text.replace("/", "_").replace("\\", "_").strip(" .")
    if len(text) <= MAX_NAME_CHARS:
        return text or NAMELESS
    stem, dot, extension = text.rpartition(".")
    ending = dot + extension if stem and len(extension) <= 10 else ""
    return text[: MAX_NAME_CHARS - len(ending)] + ending
