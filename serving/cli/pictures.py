"""From a prompt, or a picture to change, to picture files: submit, follow, download, save."""

import hashlib
import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Protocol

from serving.cli.client import Client, ClientError, Lost, Refused, Unreachable

POLL_MIN_S, POLL_MAX_S = 0.1, 1.0
LOST_S = 60.0  # how long a server that went away may take to come back while we follow a job
MAX_SLUG_CHARS = 48
ENDED = {"succeeded", "failed", "cancelled"}
SUFFIXES = {"image/png": ".png", "image/jpeg": ".jpg", "image/webp": ".webp"}

JobWatcher = Callable[[Mapping[str, Any]], None]


class JobFailed(ClientError):
    """The job ended without a result."""


class StillRunning(ClientError):
    """We stopped waiting; the job did not stop. Its id is None when we left before the server told it."""

    def __init__(self, job_id: str | None, why: str) -> None:
        if job_id is None:
            rest = "If the order had arrived, its job goes on; find it with: darkroom jobs"
        else:
            rest = f"The job goes on; look at it with: darkroom jobs {job_id}, or call it off: darkroom cancel {job_id}"
        super().__init__(f"{why} {rest}")
        self.job_id = job_id


@dataclass(frozen=True, slots=True)
class PictureOrder:
    """What to make; None leaves the choice to the server."""

    prompt: str
    model: str | None = None
    size: str | None = None
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    seed: int | None = None
    negative_prompt: str | None = None
    n: int | None = None
    output_format: str | None = None
    loras: Sequence[Mapping[str, Any]] | None = None  # as the API takes them: name and scale
    scheduler: str | None = None

    def body(self) -> dict[str, Any]:
        named = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in named.items() if value is not None}


@dataclass(frozen=True, slots=True)
class EditOrder(PictureOrder):
    """How to change a picture."""

    strength: float | None = None

    def form(self) -> dict[str, str]:
        """The same as the text fields of a form, where what is no text goes as JSON."""
        return {name: value if isinstance(value, str) else json.dumps(value) for name, value in self.body().items()}


def make_pictures(client: Client, order: PictureOrder, *, out: Path, timeout_s: float, watch: JobWatcher) -> list[Path]:
    """The whole way; `watch` sees the job whenever it was looked at. Raises ClientError, StillRunning on Ctrl-C."""
    accepted = client.post("/v1/generate/image", order.body())
    return _collect(client, accepted, order, out=out, timeout_s=timeout_s, watch=watch)


def edit_picture(
    client: Client,
    order: EditOrder,
    files: Mapping[str, Path],
    *,
    out: Path,
    timeout_s: float,
    watch: JobWatcher,
) -> list[Path]:
    """The same from the files `image` and, if any, `mask`. The server answers when all is done."""
    watch({"status": "waiting"})
    try:
        answer = client.upload("/v1/images/edits", files, order.form(), timeout_s=timeout_s)
    except KeyboardInterrupt as interrupt:
        raise StillRunning(None, "Stopped waiting.") from interrupt
    except Lost as error:
        raise StillRunning(None, str(error)) from error
    # The answer has no hashes; the job has, and asking for it bears with a server that is away for a while.
    made = {"id": answer["job_id"], "status": "running"}
    return _collect(client, made, order, out=out, timeout_s=timeout_s, watch=watch)


def _collect(
    client: Client,
    accepted: Mapping[str, Any],
    order: PictureOrder,
    *,
    out: Path,
    timeout_s: float,
    watch: JobWatcher,
) -> list[Path]:
    result = await_result(client, accepted, timeout_s=timeout_s, watch=watch)
    stem = slug(order.prompt)
    return [keep(client, image, out, f"{stem}-{image['seed']}") for image in result["images"]]


class Follow(Protocol):
    """A way to a job's end; follow() and follow_closely() are two."""

    def __call__(
        self, client: Client, job: Mapping[str, Any], /, *, timeout_s: float, watch: JobWatcher
    ) -> Mapping[str, Any]: ...


def await_result(
    client: Client,
    accepted: Mapping[str, Any],
    *,
    timeout_s: float,
    watch: JobWatcher,
    by: Follow | None = None,
) -> Mapping[str, Any]:
    """What came of the job. Raises JobFailed, and StillRunning when we leave before its end."""
    job_id = str(accepted["id"])
    try:
        job = (by or follow)(client, accepted, timeout_s=timeout_s, watch=watch)
    except KeyboardInterrupt as interrupt:
        raise StillRunning(job_id, "Stopped waiting.") from interrupt
    if job["status"] != "succeeded":
        error = job.get("error") or {}
        reason = error.get("message") or "no reason was given"
        raise JobFailed(f"Job {job_id} {job['status']}: {reason}" + (f" ({error['code']})" if "code" in error else ""))
    result: Mapping[str, Any] = job["result"]
    return result


def follow(client: Client, job: Mapping[str, Any], *, timeout_s: float, watch: JobWatcher) -> Mapping[str, Any]:
    """The job once it ended. A server that is away for a while is waited for: jobs outlive it."""
    job_id = str(job["id"])
    deadline = time.monotonic() + timeout_s
    last_seen = time.monotonic()
    pause_s = POLL_MIN_S
    watch(job)
    while job["status"] not in ENDED:
        now = time.monotonic()
        if now >= deadline:
            raise StillRunning(job_id, f"Waited {timeout_s:.0f} s.")
        time.sleep(min(pause_s, deadline - now))
        pause_s = min(POLL_MAX_S, pause_s * 1.3)
        try:
            job = client.get(f"/v1/jobs/{job_id}")
        except (Unreachable, Refused) as error:
            if not may_pass(error) or time.monotonic() - last_seen > LOST_S:
                raise StillRunning(job_id, str(error)) from error
            continue
        last_seen = time.monotonic()
        watch(job)
    return job


def may_pass(error: Unreachable | Refused) -> bool:
    """Whether the server may be back in a moment, and with it the job."""
    # While a server restarts its proxy answers 404 without our error body, and 5xx: neither is a verdict on the job.
    if isinstance(error, Unreachable):
        return True
    return error.status in {429, 500, 502, 503, 504} or (error.status == 404 and error.code is None)


def keep(client: Client, image: Mapping[str, Any], out: Path, stem: str) -> Path:
    """Saves one picture of a result as a new file in `out`."""
    data = client.download(str(image["url"]))
    expected = image.get("sha256")
    if expected and hashlib.sha256(data).hexdigest() != expected:
        raise ClientError(f"The picture arrived damaged: {len(data)} bytes that do not have the hash {expected}.")
    suffix = SUFFIXES.get(str(image.get("content_type")), ".png")
    return save_new(out, stem, suffix, data)


def slug(prompt: str) -> str:
    """A file name's worth of the prompt: letters and digits of any script, joined by dashes."""
    words = re.sub(r"[\W_]+", "-", prompt.lower()).strip("-")
    # Names are limited in bytes, and a letter may take four of them.
    short = words.encode()[: MAX_SLUG_CHARS * 2].decode(errors="ignore")[:MAX_SLUG_CHARS]
    return short.strip("-") or "picture"


def save_new(folder: Path, stem: str, suffix: str, data: bytes) -> Path:
    """Writes under the first free of stem.png, stem-2.png, stem-3.png …; what is there stays as it is."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        number = 1
        while True:
            path = folder / f"{stem}{'' if number == 1 else f'-{number}'}{suffix}"
            try:
                with path.open("xb") as file:
                    file.write(data)
            except FileExistsError:
                number += 1
                continue
            return path
    except OSError as error:
        raise ClientError(f"The picture cannot be saved in {folder}: {error}") from error
