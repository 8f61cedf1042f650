"""A server that speaks the public API over httpx.MockTransport, and one call of the command against it."""

import hashlib
from collections.abc import Callable

import httpx
from typer.testing import CliRunner, Result

from serving.cli import app as cli

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(64))
KEY = "dr-test-key"
API = "http://api.test"
STORE = "http://s3.test"


class FakeDarkroom:
    """One job that takes `states` polls to end; every request is kept in `seen`."""

    def __init__(self) -> None:
        self.seen: list[httpx.Request] = []
        self.states: list[dict] = [
            {"status": "queued", "progress": 0, "queue_position": 2},
            {"status": "running", "progress": 50},
            {"status": "succeeded", "progress": 100},
        ]
        self.seeds = [7]
        self.error: dict | None = None
        self.stored = PNG
        self.answers: dict[tuple[str, str], Callable[[httpx.Request], httpx.Response]] = {}

    @property
    def transport(self) -> httpx.MockTransport:
        return httpx.MockTransport(self.handle)

    def sent(self, method: str, path: str) -> list[httpx.Request]:
        return [r for r in self.seen if (r.method, r.url.path) == (method, path)]

    def handle(self, request: httpx.Request) -> httpx.Response:
        self.seen.append(request)
        if request.url.host == "s3.test":
            # As S3 does: a pre-signed URL together with an Authorization header is refused.
            return httpx.Response(400 if "Authorization" in request.headers else 200, content=self.stored)
        if answer := self.answers.get((request.method, request.url.path)):
            return answer(request)
        if request.headers.get("Authorization") != f"Bearer {KEY}":
            return refusal(401, "Incorrect API key provided.", code="invalid_api_key")
        if (request.method, request.url.path) == ("POST", "/v1/generate/image"):
            return httpx.Response(202, json=self.job())
        if (request.method, request.url.path) == ("POST", "/v1/images/edits"):
            self.states = self.states[-1:]  # it answers when all is done
            return httpx.Response(200, json={"job_id": "job_1", "data": [{"seed": seed} for seed in self.seeds]})
        if (request.method, request.url.path) == ("GET", "/v1/jobs/job_1"):
            if len(self.states) > 1:
                self.states.pop(0)
            return httpx.Response(200, json=self.job())
        return refusal(404, "No such route.", code="not_found")

    def job(self) -> dict:
        job = {"id": "job_1", "object": "job", "kind": "image", "model": "emoji-3d", "created_at": 1_700_000_000}
        job |= {"request": {"prompt": "a red apple"}, "error": self.error, "result": None, **self.states[0]}
        if job["status"] == "succeeded":
            sha256 = hashlib.sha256(PNG).hexdigest()
            image = {"width": 64, "height": 64, "content_type": "image/png", "bytes": len(PNG), "sha256": sha256}
            images = [image | {"url": f"{STORE}/{seed}.png?X-Amz-Signature=x", "seed": seed} for seed in self.seeds]
            job["result"] = {"images": images, "inference_time_s": 0.5}
        return job


def refusal(status: int, message: str, *, code: str, headers: dict[str, str] | None = None) -> httpx.Response:
    error = {"message": message, "type": "invalid_request_error", "param": None, "code": code}
    return httpx.Response(status, json={"error": error}, headers=headers)


def darkroom(server: FakeDarkroom, *args: str, url: str = API, key: str | None = KEY) -> Result:
    given = ["--url", url, *(["--key", key] if key else [])]
    return CliRunner().invoke(cli.app, [*args, *given], obj=server.transport)
