"""Trainings of a chaos run: the same one again and again, broken at random steps, and always the same weights.

The first is left in peace: its weights are what every other one must end with, bit for bit.
"""

import hashlib
import io
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np
from chaos_checks import FINAL, Finding
from PIL import Image, ImageDraw
from safetensors.numpy import load as load_tensors

TENANT = "trainee"
NUM_PICTURES, SIDE_PX = 5, 320
STEPS = 120
CALL_TIMEOUT_S = 30.0
TRAINING_TIMEOUT_S = 420.0
POLL_S = 0.3
UNTIL = 0.9  # of its steps: later there may be none left to be broken in

Call = Callable[..., dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Begun:
    """A training that is under way, and when it is to be broken."""

    job_id: str
    break_at_step: int


class Trainings:
    """One tenant that trains. Raises httpx.HTTPError where the server does not answer in peace."""

    def __init__(self, call: Call, rng: random.Random) -> None:
        """`call(method, key, path, json=…, files=…)` gives the answer's JSON."""
        self._call, self._rng = call, rng
        self._key, self._uploads = "", [""]
        self._digest = ""
        self.num_resumed = 0

    def prepare(self, admin_key: str) -> None:
        """Tenant, pictures, and the training that nobody disturbs."""
        self._call("POST", admin_key, "/v1/admin/tenants", json={"id": TENANT})
        key = self._call("POST", admin_key, "/v1/admin/keys", json={"name": "chaos", "tenant": TENANT})
        self._key = key["key"]
        self._uploads = [self._upload(index) for index in range(NUM_PICTURES)]
        job = self._wait(self._begin("undisturbed"), lambda job: job["status"] in FINAL)
        if job is None or job["status"] != "succeeded":
            raise RuntimeError(f"the undisturbed training did not succeed: {job}")
        self._digest = self._weights_of(job)

    def begin(self, number: int) -> Begun:
        """A training that has reached a step of its own choice; what breaks now breaks it there."""
        begun = Begun(self._begin(f"round {number}"), self._rng.randint(1, int(UNTIL * STEPS)))

        def is_there(job: dict[str, Any]) -> bool:
            return job["status"] in FINAL or (job["stage"] == "train" and job["step"] >= begun.break_at_step)

        self._wait(begun.job_id, is_there)
        return begun

    def judge(self, begun: Begun) -> list[Finding]:
        """What is wrong with how it ended."""
        job = self._wait(begun.job_id, lambda job: job["status"] in FINAL)
        where = f"broken at step {begun.break_at_step}"
        if job is None:
            return [Finding("lost", begun.job_id, f"the training {where} has not ended in {TRAINING_TIMEOUT_S:.0f} s")]
        if job["status"] != "succeeded":
            return [Finding("wrong", begun.job_id, f"the training {where} is {job['status']}: {job['error']}")]
        self.num_resumed += job["attempts"] > 1
        if self._weights_of(job) != self._digest:
            return [Finding("wrong", begun.job_id, f"the training {where} has other weights than the undisturbed one")]
        return []

    def _begin(self, what: str) -> str:
        body = {
            "name": "chaos",
            "upload_ids": self._uploads,
            "trigger": "sks thing",
            "steps": STEPS,
            "rank": 4,
            "seed": 11,
            "metadata": {"what": what},
        }
        return str(self._call("POST", self._key, "/v1/loras/train", json=body)["id"])

    def _wait(self, job_id: str, is_enough: Callable[[dict[str, Any]], bool]) -> dict[str, Any] | None:
        """The job once it is so; None when it is not in time. The server may be away meanwhile."""
        deadline_s = time.monotonic() + TRAINING_TIMEOUT_S
        while time.monotonic() < deadline_s:
            try:
                job = self._call("GET", self._key, f"/v1/jobs/{job_id}")
            except (httpx.HTTPError, ValueError):
                job = None
            if job is not None and is_enough(job):
                return job
            time.sleep(POLL_S)
        return None

    def _weights_of(self, job: dict[str, Any]) -> str:
        """A digest of the published tensors; the header speaks of the job, so it differs."""
        reply = httpx.get(job["result"]["url"], timeout=CALL_TIMEOUT_S, trust_env=False)
        reply.raise_for_status()
        digest = hashlib.sha256()
        for name, tensor in sorted(load_tensors(reply.content).items()):
            digest.update(name.encode() + str(tensor.shape).encode() + tensor.tobytes())
        return digest.hexdigest()

    def _upload(self, index: int) -> str:
        files = {"file": (f"{index}.png", _draw(index), "image/png")}
        return str(self._call("POST", self._key, "/v1/uploads/direct", files=files, data={"purpose": "image"})["id"])


def _draw(index: int) -> bytes:
    """A thing of its own kind on grounds that differ, as photographs would."""
    noise = np.random.default_rng(index).integers(0, 60, (SIDE_PX, SIDE_PX, 3), np.uint8)
    picture = Image.fromarray(noise + np.uint8(30 * index))
    left = 40 + 25 * index
    draw = ImageDraw.Draw(picture)
    draw.ellipse((left, 90, left + 120, 230), fill=(220, 60, 30), outline=(250, 240, 90), width=9)
    draw.rectangle((left + 40, 130, left + 80, 190), fill=(30, 60, 200))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def caller(url: str) -> Call:
    """A `call` for a server at that address."""

    def call(method: str, key: str, path: str, **body: Any) -> dict[str, Any]:  # noqa: ANN401 - httpx's own words
        headers = {"Authorization": f"Bearer {key}"}
        reply = httpx.request(method, url + path, headers=headers, timeout=CALL_TIMEOUT_S, trust_env=False, **body)
        reply.raise_for_status()
        parsed: dict[str, Any] = reply.json()
        return parsed

    return call
