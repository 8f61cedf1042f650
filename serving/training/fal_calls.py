"""The HTTP of fal.ai's queue: submit, status, result, cancel, download; tries again what may pass. Knows no training.

TrainingError: no further try helps. Unavailable: another time it may. NotRun: another request may.
"""

import asyncio
import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn, get_args

import httpx

from serving.backends.training import TrainingError
from serving.errors import Unavailable

State = Literal["IN_QUEUE", "IN_PROGRESS", "COMPLETED"]
STATES: tuple[State, ...] = get_args(State)
PAUSES_S = (1.0, 2.0, 4.0, 8.0)  # between one try and the next
TIMEOUT = httpx.Timeout(60.0, connect=10.0)
PASSING = frozenset({408, 429, 500, 502, 503, 504})
NEVER_ARRIVED = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)
# What fal.ai calls the failures of its own machines; no work was done, and nothing is charged.
NOT_RUN = frozenset(
    {
        "request_timeout",
        "startup_timeout",
        "runner_scheduling_failure",
        "runner_connection_timeout",
        "runner_disconnected",
        "runner_connection_refused",
    }
)
CONTENT_POLICY = "content_policy_violation"
CHUNK_BYTES = 1_048_576
MAX_SAID_CHARS = 300
OWN_DOMAIN = "fal.run"  # its queue hands out addresses there, whatever it was reached by


class NotRun(Unavailable):
    """fal.ai had taken the request and could not work on it."""


class Unclear(TrainingError):
    """Nobody can say whether fal.ai has taken the request: asked again, it might be paid twice."""

    def __init__(self, message: str) -> None:
        super().__init__("provider_unclear", message)


@dataclass(frozen=True, slots=True)
class Ticket:
    """A request that was taken. Its addresses are used as they came: they are not those it was submitted to."""

    request_id: str
    status_url: str
    response_url: str
    cancel_url: str


@dataclass(frozen=True, slots=True)
class Status:
    """How far it is there."""

    state: State
    lines: tuple[str, ...]  # of its log
    inference_s: float


class FalCalls:
    """Calls with one key. The key goes to the queue's own host and nowhere else."""

    def __init__(
        self, client: httpx.AsyncClient, queue_url: str, key: str, *, pauses_s: Sequence[float] = PAUSES_S
    ) -> None:
        self._client = client
        self._queue = httpx.URL(queue_url.rstrip("/"))
        self._headers = {"Authorization": f"Key {key}"}
        self._pauses_s = pauses_s

    async def submit(self, endpoint: str, body: Mapping[str, Any]) -> Ticket:
        """Raises Unclear where it may have been taken all the same: who then asks again may pay twice."""
        answer = await self._call("POST", f"{self._queue}/{endpoint}", json=dict(body), is_repeatable=False)
        if not answer.is_success:
            _refuse(answer)
        said = _json_of(answer)
        try:
            return Ticket(**{name: str(said[name]) for name in Ticket.__slots__})
        except KeyError as error:
            raise Unclear(f"fal.ai's answer to the request has no {error}.") from error

    async def status(self, ticket: Ticket) -> Status:
        """How far it is; one that is not known yet, right after it was taken, is asked for again."""
        url = self._own(ticket.status_url)
        answer = await self._call("GET", url, passing=PASSING | {404}, params={"logs": "1"})
        if not answer.is_success:
            _refuse(answer)
        said = _json_of(answer)
        if said.get("status") not in STATES:
            raise TrainingError("provider_bad_reply", f"fal.ai gives an unknown status: {_cut(said.get('status'))}.")
        if said.get("error"):
            _fail(_cut(said["error"]), {str(said.get("error_type")), str(said["error"])})
        lines = tuple(str(line.get("message", "")) for line in said.get("logs") or () if isinstance(line, dict))
        metrics = said.get("metrics") or {}
        return Status(said["status"], lines, float(metrics.get("inference_time") or 0.0))

    async def result(self, ticket: Ticket) -> dict[str, Any]:
        """What came of a request that is completed, which does not mean that it went well."""
        answer = await self._call("GET", self._own(ticket.response_url), is_last_word=_tells_why)
        if not answer.is_success:
            _refuse(answer)
        return _json_of(answer)

    async def cancel(self, ticket: Ticket) -> bool:
        """Whether it will not run on; False where it is completed already, and can still be fetched."""
        answer = await self._call("PUT", self._own(ticket.cancel_url))
        return answer.status_code in {202, 404}

    async def download(self, url: str, target: Path, *, max_bytes: int) -> str:
        """The file at `url`, fetched without the key; its SHA-256. Unavailable: ask for its address again."""
        if not url.startswith(("https://", f"{self._queue.scheme}://{self._queue.netloc.decode()}/")):
            raise TrainingError("provider_bad_reply", "fal.ai names a file that cannot be fetched safely.")
        try:
            async with self._client.stream("GET", url, follow_redirects=True) as answer:
                if answer.status_code != httpx.codes.OK:
                    raise _away(f"its file store answered {answer.status_code}")
                return await _write(answer, target, max_bytes)
        except httpx.RequestError as error:
            raise _away(f"its file did not come, {type(error).__name__}") from error

    async def _call(
        self,
        method: str,
        url: httpx.URL | str,
        *,
        passing: Collection[int] = PASSING,
        is_repeatable: bool = True,
        is_last_word: Callable[[httpx.Response], bool] = lambda _: False,
        **options: Any,  # noqa: ANN401 - httpx's own
    ) -> httpx.Response:
        """The first answer that another try would not change, or the last of all."""
        for pause_s in (*self._pauses_s, None):
            try:
                answer = await self._client.request(method, url, headers=self._headers, **options)
            except httpx.RequestError as error:
                if not is_repeatable and not isinstance(error, NEVER_ARRIVED):
                    raise Unclear(f"fal.ai did not say whether it took the request, {type(error).__name__}.") from error
                if pause_s is None:
                    raise _away(type(error).__name__) from error
            else:
                if pause_s is None or answer.status_code not in passing or is_last_word(answer):
                    return answer
            await asyncio.sleep(pause_s)
        raise AssertionError("the last try returns or raises")

    def _own(self, url: str) -> httpx.URL:
        """An address that may be told the key."""
        try:
            named = httpx.URL(url)
        except httpx.InvalidURL as error:
            raise TrainingError("provider_bad_reply", "fal.ai gives an address that is none.") from error
        is_same = (named.scheme, named.netloc) == (self._queue.scheme, self._queue.netloc)
        if is_same or (named.scheme == "https" and f".{named.host}".endswith(f".{OWN_DOMAIN}")):
            return named
        raise TrainingError("provider_bad_reply", f"fal.ai names a host that is not its own: {_cut(named.host)}.")


async def _write(answer: httpx.Response, target: Path, max_bytes: int) -> str:
    digest, num_bytes = hashlib.sha256(), 0
    file = await asyncio.to_thread(target.open, "wb")
    with file:
        async for chunk in answer.aiter_bytes(CHUNK_BYTES):
            num_bytes += len(chunk)
            if num_bytes > max_bytes:
                raise TrainingError("too_large", f"The file that fal.ai made is larger than {max_bytes} bytes.")
            digest.update(chunk)
            await asyncio.to_thread(file.write, chunk)
    return digest.hexdigest()


def _refuse(answer: httpx.Response) -> NoReturn:
    """What an answer that is no success means for the training."""
    status, said = answer.status_code, _json_of(answer)
    detail = said.get("detail")
    faults = [fault for fault in detail if isinstance(fault, dict)] if isinstance(detail, list) else []
    kinds = {str(fault.get("type")) for fault in faults} | {str(said.get("error_type"))}
    words = _cut("; ".join(str(fault.get("msg")) for fault in faults) or detail or f"HTTP {status}")
    if status in {401, 403}:
        raise TrainingError("provider_denied", f"fal.ai does not let this server in: {words}.")
    if _tells_why(answer):
        _fail(words, kinds)
    if status in PASSING:
        raise _away(words)
    raise TrainingError("provider_refused", f"fal.ai refuses the training: {words}.")


def _fail(words: str, kinds: Collection[str]) -> NoReturn:
    """It was taken, and came to no good end."""
    if any(CONTENT_POLICY in kind for kind in kinds):
        raise TrainingError("moderation_blocked", f"fal.ai does not train on this: {words}.")
    if not NOT_RUN.isdisjoint(kinds):
        raise NotRun(f"fal.ai could not run the training: {words}.", code="provider_unavailable")
    raise TrainingError("provider_failed", f"The training failed at fal.ai: {words}.")


def _tells_why(answer: httpx.Response) -> bool:
    """An error of the training itself, whatever its number: asking again would give the same words."""
    said = _json_of(answer)
    return isinstance(said.get("detail"), list) or said.get("error_type") in NOT_RUN


def _away(words: str) -> Unavailable:
    return Unavailable(f"fal.ai does not answer as it should: {words}.", code="provider_unavailable")


def _json_of(answer: httpx.Response) -> dict[str, Any]:
    """Empty where it is no object."""
    try:
        said = answer.json()
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}


def _cut(said: object) -> str:
    """A stranger's words as they may stand in a message."""
    return str(said)[:MAX_SAID_CHARS].rstrip(".")
