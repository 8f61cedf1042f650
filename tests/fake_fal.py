"""A local fal.ai over true HTTP: its queue, a file store, and everything that may go wrong there."""

import asyncio
import base64
import io
import socket
import zipfile
from collections import defaultdict, deque
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from tests.serving.house import eventually

KEY = "key-id:key-secret"


def cut_off(_: Request) -> Response:
    """Breaks off in the middle of its answer."""

    async def half() -> AsyncIterator[bytes]:
        yield b'{"half": '

    return StreamingResponse(half(), headers={"Content-Length": "1000"})


def error(status: int, body: Any) -> JSONResponse:
    return JSONResponse(body, status)


def model_error(kind: str, words: str, status: int = 422) -> JSONResponse:
    """As its models say it."""
    return error(status, {"detail": [{"loc": ["body"], "msg": words, "type": kind}]})


@dataclass
class Asked:
    """A training that was paid for."""

    endpoint: str
    body: dict[str, Any]
    num_polls: int = 0
    is_cancelled: bool = False

    def archive(self, name: str) -> dict[str, bytes]:
        """What lies in the zip that came along."""
        head, _, data = self.body[name].partition(",")
        assert head == "data:application/zip;base64"
        with zipfile.ZipFile(io.BytesIO(base64.b64decode(data))) as file:
            return {entry: file.read(entry) for entry in file.namelist()}


@dataclass
class FakeFal:
    """What is asked is done after `polls_needed` looks. `troubles`, by what is called, are answered first, in turn."""

    file: bytes = b""
    polls_needed: int = 2
    total_steps: int = 100
    result_field: str = "diffusers_lora_file"
    completed: dict[str, Any] = field(default_factory=dict)  # said besides
    troubles: defaultdict[str, deque[Any]] = field(default_factory=lambda: defaultdict(deque))
    asked: list[Asked] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)
    keys: dict[str, set[str | None]] = field(default_factory=lambda: defaultdict(set))
    url: str = ""
    file_url: str | None = None  # instead of its own
    held: str = ""  # what is called; its answers wait for the gate
    gate: asyncio.Event = field(default_factory=asyncio.Event)

    def renew(self, **options: Any) -> None:
        """As if it were new, at the same address."""
        vars(self).update(vars(FakeFal(url=self.url, **options)))

    def app(self) -> FastAPI:
        app = FastAPI()
        app.middleware("http")(self._note)
        app.post("/{owner}/{app}")(self.submit)
        app.get("/queue/{number}/status")(self.status)
        app.get("/queue/{number}")(self.result)
        app.put("/queue/{number}/cancel")(self.cancel)
        app.get("/files/{name}")(self.download)
        return app

    async def _note(self, request: Request, call_next: Any) -> Response:
        kind = _kind_of(request)
        self.calls.append(kind)
        self.keys[kind].add(request.headers.get("authorization"))
        if self.troubles[kind]:
            trouble = self.troubles[kind].popleft()
            return trouble(request) if callable(trouble) and not isinstance(trouble, Response) else trouble
        if kind != "file" and request.headers.get("authorization") != f"Key {KEY}":
            return error(401, {"detail": "no such key"})
        response: Response = await call_next(request)
        if kind == self.held:
            await self.gate.wait()
        return response

    async def submit(self, owner: str, app: str, request: Request) -> Response:
        self.asked.append(Asked(f"{owner}/{app}", await request.json()))
        number = len(self.asked) - 1
        urls = {"status_url": "/status", "response_url": "", "cancel_url": "/cancel"}
        return JSONResponse(
            {"request_id": f"req-{number}", "status": "IN_QUEUE", "queue_position": 0}
            | {name: f"{self.url}/queue/{number}{end}" for name, end in urls.items()}
        )

    async def status(self, number: int, logs: str = "") -> Response:
        asked = self.asked[number]
        asked.num_polls += 1
        if asked.num_polls > self.polls_needed:
            return JSONResponse(
                {"status": "COMPLETED", "metrics": {"inference_time": 41.5}, "logs": []} | self.completed
            )
        if asked.num_polls == 1:
            return JSONResponse({"status": "IN_QUEUE", "queue_position": 3}, 202)
        step = self.total_steps * (asked.num_polls - 1) // self.polls_needed
        lines = [{"message": "loaded 3/7 shards"}, {"message": f" 12%|# | {step}/{self.total_steps} [00:10<01:00]"}]
        return JSONResponse({"status": "IN_PROGRESS", "logs": lines if logs else None}, 202)

    async def result(self, number: int) -> Response:
        file = {"url": self.file_url or f"{self.url}/files/{number}.safetensors", "file_size": len(self.file)}
        return JSONResponse({self.result_field: file, "config_file": {"url": f"{self.url}/files/config"}})

    async def cancel(self, number: int) -> Response:
        if self.asked[number].num_polls > self.polls_needed:
            return JSONResponse({"status": "ALREADY_COMPLETED"}, 400)
        self.asked[number].is_cancelled = True
        return JSONResponse({"status": "CANCELLATION_REQUESTED"}, 202)

    async def download(self, name: str) -> Response:
        return Response(self.file, media_type="application/octet-stream")


def _kind_of(request: Request) -> str:
    path = request.url.path
    if path.startswith("/files/"):
        return "file"
    if path.startswith("/queue/"):
        end = path.rpartition("/")[2]
        return end if end in {"status", "cancel"} else "result"
    return "submit"


@asynccontextmanager
async def fake_fal(**options: Any) -> AsyncGenerator[FakeFal, None]:
    """One that listens on a port of its own."""
    this = FakeFal(**options)
    # Only where the protocol is named does asyncio send at once; else each answer in two parts waits 40 ms.
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        listener.bind(("127.0.0.1", 0))
        this.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        server = uvicorn.Server(uvicorn.Config(this.app(), log_level="critical", lifespan="off"))
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            await eventually(lambda: server.started)
            yield this
        finally:
            server.should_exit = True
            await serving
