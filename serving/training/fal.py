"""fal.ai as a trainer: a dataset goes there, a LoRA file comes back. Off until there is a key.

Each training there is paid for: a mark that the caller keeps says what was asked, so that no restart asks twice.
"""

import asyncio
import base64
import re
import ssl
import time
import zipfile
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import httpx

from configs.settings.training import FalSettings
from models.adapters import check_file
from pipelines.request import Progress, TrainingRequest
from serving.backends.training import TrainingError
from serving.errors import Unavailable
from serving.telemetry import get_logger
from serving.training.fal_calls import PAUSES_S, TIMEOUT, FalCalls, NotRun, Ticket, Unclear
from training.dataset import read_dataset

log = get_logger("fal")

STYLE = "style"  # the recipe
ARCHIVE = "fal.zip"
CALL_OFF_TIMEOUT_S = 10.0
EPOCH = (1980, 1, 1, 0, 0, 0)  # the first that a zip archive can say


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One of fal.ai's trainers: what its fields are called."""

    archive: str  # URL of a zip of pictures, with a .txt of the same name for those that have a caption
    trigger: str  # the word, or what is said of pictures that have no caption
    result: str  # the file
    steps: str = "steps"
    min_pictures: int = 1
    for_style: Mapping[str, Any] = field(default_factory=dict)  # besides, where a style is learned and no subject
    fixed: Mapping[str, Any] = field(default_factory=dict)  # besides, always

    def body(self, request: TrainingRequest, archive_url: str) -> dict[str, Any]:
        """The request as JSON."""
        trigger = {self.trigger: request.trigger} if request.trigger else {}
        style = self.for_style if request.recipe == STYLE else {}
        return {self.archive: archive_url, self.steps: request.steps, **trigger, **style, **self.fixed}


_DIFFUSERS = "diffusers_lora_file"
_CAPTIONED = Endpoint("image_data_url", "default_caption", _DIFFUSERS)
# Trainers on single pictures that give one file. Not here: those that want pairs (edit, kontext), videos (ltx, wan), or
# that give two files of which neither works alone (wan-22).
ENDPOINTS: Mapping[str, Endpoint] = {
    "fal-ai/flux-lora-fast-training": Endpoint(
        "images_data_url",
        "trigger_word",
        _DIFFUSERS,
        min_pictures=4,
        for_style={"is_style": True},
        fixed={"data_archive_format": "zip"},
    ),
    "fal-ai/flux-lora-portrait-trainer": Endpoint(
        "images_data_url", "trigger_phrase", _DIFFUSERS, fixed={"data_archive_format": "zip"}
    ),
    "fal-ai/turbo-flux-trainer": Endpoint(
        "images_data_url", "trigger_phrase", _DIFFUSERS, for_style={"training_style": "style"}
    ),
    "fal-ai/flux-2-trainer": _CAPTIONED,
    "fal-ai/flux-2-trainer-v2": _CAPTIONED,
    "fal-ai/flux-2-klein-9b-base-trainer": _CAPTIONED,
    "fal-ai/z-image-trainer": Endpoint(
        "image_data_url", "default_caption", _DIFFUSERS, for_style={"training_type": "style"}
    ),
    "fal-ai/z-image-turbo-trainer-v2": _CAPTIONED,
    "fal-ai/qwen-image-2512-trainer": _CAPTIONED,
    "fal-ai/krea-2-trainer": Endpoint("images_data_url", "trigger_phrase", "lora_file"),
}


@dataclass(frozen=True, slots=True)
class FalOutcome:
    """The file that came back, whole and a LoRA by its header."""

    request_id: str
    sha256: str
    num_bytes: int
    inference_s: float  # of their machine


Mark = dict[str, Any]  # empty: nothing was asked yet
Keep = Callable[[Mark], Awaitable[None]]  # stores it in the place of the one before
Presign = Callable[[Path], Awaitable[str]]  # puts the file where fal.ai can fetch it from the URL that it returns
Tell = Callable[[Progress], None]


class FalTrainer:
    """Trains what the settings name an endpoint for."""

    def __init__(
        self,
        settings: FalSettings,
        *,
        max_file_bytes: int,
        pauses_s: Sequence[float] = PAUSES_S,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        assert settings.key is not None, "off until there is a key"
        if unknown := sorted(set(settings.models.values()) - set(ENDPOINTS)):
            raise ValueError(
                f"training.fal.models: {unknown[0]} is unknown; there are: {', '.join(sorted(ENDPOINTS))}."
            )
        self._settings = settings
        self._key = settings.key
        self._max_file_bytes = max_file_bytes
        self._pauses_s = pauses_s
        self._tls = tls or httpx.create_ssl_context(trust_env=False)

    @property
    def base_models(self) -> frozenset[str]:
        """For which it trains LoRAs."""
        return frozenset(self._settings.models)

    async def train(
        self,
        request: TrainingRequest,
        dataset_folder: Path,
        target: Path,
        *,
        mark: Mark,
        keep: Keep,
        presign: Presign,
        tell: Tell,
    ) -> FalOutcome:
        """Puts the trained file at `target`. `mark` is what an earlier attempt at the same job kept, else empty.

        Raises TrainingError where it cannot be done, Unavailable where another attempt with the same mark may do it.
        Cancelled, it calls the training off there.
        """
        async with self._calls() as calls:
            try:
                if not mark:
                    body = await self._body(request, dataset_folder, presign)
                    await _to_its_end(self._ask(calls, self._settings.models[request.base_model], body, mark, keep))
                outcome = await self._outcome(calls, mark, keep, request.steps, target, tell)
            except NotRun:
                await _note(mark, keep, {})  # nothing was done and nothing is charged: another request may go better
                raise
            except asyncio.CancelledError:
                await _call_off(calls, mark, keep)
                raise
        await asyncio.to_thread(check_file, target)
        return outcome

    @asynccontextmanager
    async def _calls(self) -> AsyncGenerator[FalCalls, None]:
        # A .netrc would put its own word in the place of the key.
        async with httpx.AsyncClient(timeout=TIMEOUT, trust_env=False, verify=self._tls) as client:
            key = self._key.get_secret_value()
            yield FalCalls(client, self._settings.queue_url, key, pauses_s=self._pauses_s)

    async def _body(self, request: TrainingRequest, folder: Path, presign: Presign) -> dict[str, Any]:
        endpoint = ENDPOINTS[self._settings.models[request.base_model]]
        archive = folder.parent / ARCHIVE
        num_pictures = await asyncio.to_thread(_pack, folder, archive)
        if num_pictures < endpoint.min_pictures:
            few = f"{num_pictures} pictures can be learned from; fal.ai takes {endpoint.min_pictures} or more."
            raise TrainingError("too_few_pictures", few)
        if archive.stat().st_size > self._settings.max_inline_bytes:
            return endpoint.body(request, await presign(archive))
        inline = base64.b64encode(await asyncio.to_thread(archive.read_bytes)).decode()
        return endpoint.body(request, f"data:application/zip;base64,{inline}")

    async def _ask(self, calls: FalCalls, name: str, body: Mapping[str, Any], mark: Mark, keep: Keep) -> None:
        """The mark stands before the request goes out: of one that was killed in between nobody knows the end."""
        asked = {"endpoint": name, "asked_at": time.time()}
        await _note(mark, keep, asked)
        try:
            ticket = await calls.submit(name, body)
        except Unclear:
            raise
        except (TrainingError, Unavailable):
            await _note(mark, keep, {})
            raise
        log.info("asked fal.ai", endpoint=name, request_id=ticket.request_id)
        await _note(mark, keep, asked | {"ticket": asdict(ticket)})

    async def _outcome(
        self, calls: FalCalls, mark: Mark, keep: Keep, steps: int, target: Path, tell: Tell
    ) -> FalOutcome:
        ticket = _ticket_in(mark)
        deadline = asyncio.timeout(mark["asked_at"] + self._settings.timeout_s - time.time())
        try:
            async with deadline:
                inference_s = await self._completed(calls, ticket, steps, tell)
                sha256 = await self._fetched(calls, ticket, mark["endpoint"], target)
        except TimeoutError as error:
            if not deadline.expired():
                raise
            await _call_off(calls, mark, keep)
            raise TrainingError("takes_too_long", "Training at fal.ai takes longer than the server allows.") from error
        return FalOutcome(ticket.request_id, sha256, (await asyncio.to_thread(target.stat)).st_size, inference_s)

    async def _completed(self, calls: FalCalls, ticket: Ticket, steps: int, tell: Tell) -> float:
        """Seconds that it took there. Its log is for people: a step is told where a line counts up to our number."""
        step = 0
        while (status := await calls.status(ticket)).state != "COMPLETED":
            step = max(step, *(_step_of(line, steps) for line in status.lines), 0)
            tell(Progress(step, steps, stage="train"))
            await asyncio.sleep(self._settings.poll_s)
        tell(Progress(steps, steps, stage="publish"))
        return status.inference_s

    async def _fetched(self, calls: FalCalls, ticket: Ticket, name: str, target: Path) -> str:
        """SHA-256 of the file. Its address may have run out, and is asked for anew with every try."""
        for pause_s in (*self._pauses_s, None):
            said = (await calls.result(ticket)).get(ENDPOINTS[name].result)
            url = said.get("url") if isinstance(said, dict) else None
            if not isinstance(url, str):
                raise TrainingError("provider_bad_reply", f"fal.ai's answer has no {ENDPOINTS[name].result}.")
            try:
                return await calls.download(url, target, max_bytes=self._max_file_bytes)
            except Unavailable:
                if pause_s is None:
                    raise
            await asyncio.sleep(pause_s)
        raise AssertionError("the last try returns or raises")


def _pack(folder: Path, archive: Path) -> int:
    """What is learned from, each picture with its caption, as one zip; how many. What is held out stays here, so that
    the manifest says the truth of this training too."""
    learned = [one for one in read_dataset(folder).pictures if not one.is_held_out]
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as file:
        for one in learned:
            file.writestr(zipfile.ZipInfo(one.name, EPOCH), (folder / one.file).read_bytes())
            if one.caption:
                file.writestr(zipfile.ZipInfo(Path(one.name).with_suffix(".txt").name, EPOCH), one.caption)
    return len(learned)


def _ticket_in(mark: Mark) -> Ticket:
    if "ticket" not in mark:
        raise Unclear(
            "An earlier attempt was lost while it asked fal.ai, and may be paid already; it is not asked again."
        )
    return Ticket(**mark["ticket"])


def _step_of(line: str, steps: int) -> int:
    return max((int(step) for step, of in re.findall(r"\b(\d{1,9})/(\d{1,9})\b", line) if int(of) == steps), default=0)


async def _call_off(calls: FalCalls, mark: Mark, keep: Keep) -> None:
    """As well as it goes: one that was completed meanwhile stays in the mark, for it is paid."""
    if "ticket" not in mark:
        return
    try:
        async with asyncio.timeout(CALL_OFF_TIMEOUT_S):
            if await calls.cancel(_ticket_in(mark)):
                await _note(mark, keep, {})
    except (TimeoutError, TrainingError, Unavailable) as error:
        log.warning("not called off at fal.ai", request_id=mark["ticket"]["request_id"], reason=repr(error))


async def _note(mark: Mark, keep: Keep, said: Mark) -> None:
    mark.clear()
    mark.update(said)
    await keep(dict(mark))


async def _to_its_end(work: Coroutine[Any, Any, None]) -> None:
    """Cancelled, it still waits: half a request would be a paid one that nobody knows."""
    task = asyncio.create_task(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        raise
