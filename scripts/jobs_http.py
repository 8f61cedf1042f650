"""Submitting and polling jobs over HTTP, by many clients at once, as any client does."""

import random
import time

import httpx
from bench_serving import BenchFailed, Row, at_concurrency, summarise

SUBMIT, POLL = "submit", "poll"
CANCELLERS = 8
ENDED = {httpx.codes.OK, httpx.codes.CONFLICT}  # cancelled now, or ended before


class JobsOverHttp:
    """A small picture's job, again and again. What the engine has not made when all are submitted is cancelled."""

    def __init__(self, http: httpx.AsyncClient, *, model: str) -> None:
        self._http = http
        self._model = model
        self._job_ids: list[str] = []

    async def measure(self, num_clients: int, *, num_submits: int, num_polls: int) -> list[Row]:
        """The first round opens every client's connection and is not counted."""
        await at_concurrency(self.submit, num_clients, num_clients)
        submits_ms, submits_s = await at_concurrency(self.submit, num_clients, num_submits)
        await self._cancel_all()
        await at_concurrency(self.poll, num_clients, num_clients)
        polls_ms, polls_s = await at_concurrency(self.poll, num_clients, num_polls)
        return [
            summarise(SUBMIT, num_clients, submits_ms, submits_s),
            summarise(POLL, num_clients, polls_ms, polls_s),
        ]

    async def submit(self) -> float:
        body = {"model": self._model, "prompt": "a red apple", "size": "64x64", "num_inference_steps": 1}
        began = time.perf_counter()
        reply = await self._http.post("/v1/generate/image", json=body)
        took_ms = 1000 * (time.perf_counter() - began)
        if reply.status_code != httpx.codes.ACCEPTED:
            raise BenchFailed(f"POST /v1/generate/image → {reply.status_code}: {reply.text[:300]}")
        self._job_ids.append(str(reply.json()["id"]))
        return took_ms

    async def poll(self) -> float:
        job_id = random.choice(self._job_ids)
        began = time.perf_counter()
        reply = await self._http.get(f"/v1/jobs/{job_id}")
        took_ms = 1000 * (time.perf_counter() - began)
        if reply.status_code != httpx.codes.OK or reply.json()["id"] != job_id:
            raise BenchFailed(f"GET /v1/jobs/{job_id} → {reply.status_code}: {reply.text[:300]}")
        return took_ms

    async def _cancel_all(self) -> None:
        left = iter(self._job_ids)

        async def cancel() -> None:
            job_id = next(left)
            reply = await self._http.post(f"/v1/jobs/{job_id}/cancel")
            if reply.status_code not in ENDED:
                raise BenchFailed(f"POST /v1/jobs/{job_id}/cancel → {reply.status_code}: {reply.text[:300]}")

        await at_concurrency(cancel, CANCELLERS, len(self._job_ids))
