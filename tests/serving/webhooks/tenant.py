"""What a tenant does with webhooks over HTTP: registers, makes jobs, reads what was sent."""

from typing import Any

import httpx

from tests.serving.api.conftest import GOOD, NATIVE
from tests.serving.house import House, eventually
from tests.serving.webhooks.receiver import Receiver

ENDED = ["job.started", "job.succeeded"]


async def register(client: httpx.AsyncClient, there: Receiver, **body: Any) -> dict[str, Any]:
    answer = await client.post("/v1/webhooks", json={"url": there.url, **body})
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


async def make(client: httpx.AsyncClient, **body: Any) -> str:
    answer = await client.post(NATIVE, json={**GOOD, **body})
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


async def deliveries(house: House, endpoint_id: str, **query: Any) -> list[dict[str, Any]]:
    answer = await house.alice.get(f"/v1/webhooks/{endpoint_id}/deliveries", params=query)
    assert answer.status_code == 200, answer.text
    data: list[dict[str, Any]] = answer.json()["data"]
    return data


async def until_status(house: House, endpoint_id: str, *statuses: str) -> list[dict[str, Any]]:
    """The statuses of all deliveries, newest first."""

    async def are_there() -> bool:
        return [d["status"] for d in await deliveries(house, endpoint_id)] == list(statuses)

    await eventually(are_there)
    return await deliveries(house, endpoint_id)


async def lines_of_alice(house: House) -> list[dict[str, Any]]:
    return await house.mongo.of_tenant("webhook_lines", "alice").find({}, sort=[("due_at", 1)], limit=100)
