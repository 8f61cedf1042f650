"""From a file to a ready upload: announce it, send it to the object store, have it looked at."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import httpx

from serving.cli.client import Client, ClientError, Lost, Refused, Unreachable, origin_of

CONTENT_TYPES = {
    ".mp4": "video/mp4",
    ".m4v": "video/x-m4v",
    ".mov": "video/quicktime",
    ".3gp": "video/3gpp",
    ".mkv": "video/x-matroska",
    ".webm": "video/webm",
    ".avi": "video/x-msvideo",
    ".ts": "video/mp2t",
    ".m2ts": "video/mp2t",
    ".mpg": "video/mpeg",
    ".mpeg": "video/mpeg",
    ".flv": "video/x-flv",
    ".ogv": "video/ogg",
    ".wmv": "video/x-ms-wmv",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".png": "image/png",
    ".webp": "image/webp",
}
NUM_TRIES = 4
CHUNK_BYTES = 1_048_576
SEND_TIMEOUT_S = 120.0  # of silence, not of the whole transfer
PAUSE_S = 1.0
CHECK_TIMEOUT_S = 900.0

Purpose = Literal["video", "image"]
Watch = Callable[[Mapping[str, Any]], None]


@dataclass(frozen=True, slots=True)
class _Slice:
    """A part of the file that has not arrived, and where it goes."""

    url: str
    headers: Mapping[str, str]
    first_byte: int
    num_bytes: int


def upload(client: Client, path: Path, purpose: Purpose, *, watch: Watch) -> str:
    """The id of the upload once it is ready. `watch` hears how much has been sent. Raises ClientError."""
    content_type = CONTENT_TYPES.get(path.suffix.lower(), "")
    if not content_type.startswith(f"{purpose}/"):
        known = ", ".join(ending for ending, kind in CONTENT_TYPES.items() if kind.startswith(f"{purpose}/"))
        raise ClientError(f"{path.name} has no ending that says which kind of {purpose} it is; known are {known}.")
    try:
        num_bytes = path.stat().st_size
    except OSError as error:
        raise ClientError(f"The file cannot be read: {error}.") from error
    offer = {"filename": path.name, "content_type": content_type, "bytes": num_bytes, "purpose": purpose}
    announced = client.post("/v1/uploads", offer)
    _send(client, announced, path, watch)
    watch({"status": "checking", "progress": 100})
    return str(_completed(client, str(announced["id"]))["id"])


def purpose_of(file: Path) -> Purpose:
    """What its ending says that it is."""
    content_type = CONTENT_TYPES.get(file.suffix.lower(), "")
    if content_type.startswith("image/"):
        return "image"
    if content_type.startswith("video/"):
        return "video"
    raise ClientError(f"{file.name} has no ending that says what it is; known are {', '.join(CONTENT_TYPES)}.")


def _send(client: Client, announced: Mapping[str, Any], path: Path, watch: Watch) -> None:
    """All that has not arrived yet; after a failure only the rest of it, to fresh addresses."""
    latest = announced
    for num_left in reversed(range(NUM_TRIES)):
        try:
            for piece in _missing(latest):
                _put(client, piece, path, num_bytes=announced["bytes"], watch=watch)
            return
        except (Unreachable, Refused):
            if not num_left:
                raise
            time.sleep(PAUSE_S)
        is_in_parts = announced.get("parts") is not None
        fresh = client.get(f"/v1/uploads/{announced['id']}" + ("/parts" if is_in_parts else ""))
        latest = {**announced, "parts": fresh["data"]} if is_in_parts else fresh


def _missing(told: Mapping[str, Any]) -> Iterator[_Slice]:
    headers = told.get("headers") or {}
    if told.get("parts") is None:
        yield _Slice(told["url"], headers, 0, told["bytes"])
        return
    first_byte = 0
    for part in told["parts"]:
        if not part["has_arrived"]:
            yield _Slice(part["url"], headers, first_byte, part["bytes"])
        first_byte += part["bytes"]


def _put(client: Client, piece: _Slice, path: Path, *, num_bytes: int, watch: Watch) -> None:
    headers = {**piece.headers, "Content-Length": str(piece.num_bytes)}

    def told() -> Iterator[bytes]:
        num_sent = piece.first_byte
        for chunk in _chunks(path, piece):
            yield chunk
            num_sent += len(chunk)
            watch({"status": "sending", "progress": 100 * num_sent / max(1, num_bytes)})

    try:
        with client.connect_to(piece.url, timeout_s=SEND_TIMEOUT_S) as http:
            reply = http.put(piece.url, content=told(), headers=headers)
    except httpx.HTTPError as error:
        raise Unreachable(f"The file could not be sent to {origin_of(piece.url)}: {error}.") from error
    except OSError as error:
        raise ClientError(f"The file cannot be read: {error}.") from error
    if not reply.is_success:
        message = f"The object store at {origin_of(piece.url)} answered {reply.status_code} to the file."
        raise Refused(message, status=reply.status_code, code=None)


def _chunks(path: Path, piece: _Slice) -> Iterator[bytes]:
    left = piece.num_bytes
    with path.open("rb") as file:
        file.seek(piece.first_byte)
        while left and (chunk := file.read(min(CHUNK_BYTES, left))):
            left -= len(chunk)
            yield chunk
    if left:
        raise ClientError(f"{path.name} became shorter while it was sent.")


def _completed(client: Client, upload_id: str) -> Mapping[str, Any]:
    """Asked again where the answer takes longer than a call may: the server goes on looking meanwhile."""
    deadline = time.monotonic() + CHECK_TIMEOUT_S
    while time.monotonic() < deadline:
        with suppress(Lost):
            try:
                return client.post(f"/v1/uploads/{upload_id}/complete")
            except Refused as refusal:
                if refusal.code != "upload_checking":
                    raise
        time.sleep(PAUSE_S)
    raise ClientError(f"The server was not done with looking at the file after {CHECK_TIMEOUT_S:.0f} s.")
