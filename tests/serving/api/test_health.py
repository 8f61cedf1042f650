"""/health*: no key needed; ready says exactly what is missing. /metrics is Prometheus text."""

import pytest
from prometheus_client.parser import text_string_to_metric_families

from serving.errors import Unavailable
from tests.serving.conftest import OpenHouse
from tests.serving.house import House


@pytest.mark.parametrize("path", ["/health", "/health/live"])
async def test_a_process_that_answers_is_alive(shared: House, path: str) -> None:
    answer = await shared.anonymous.get(path)
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


async def test_ready_when_database_store_and_all_models_are(shared: House) -> None:
    answer = await shared.anonymous.get("/health/ready")
    assert answer.status_code == 200
    assert answer.json() == {"status": "ready", "missing": [], "models": {"emoji-3d": True, "flux-schnell": True}}


async def test_not_ready_while_a_model_loads(house: House) -> None:
    house.backends["flux-schnell"].ready = False
    answer = await house.anonymous.get("/health/ready")
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "2")
    assert answer.json()["status"] == "starting"
    assert answer.json()["missing"] == ["model flux-schnell is loading"]


async def test_not_ready_without_a_router(house: House) -> None:
    house.router.is_lost = True
    answer = await house.anonymous.get("/health/ready")
    assert answer.status_code == 503
    assert answer.json()["models"] == {"emoji-3d": False, "flux-schnell": False}


async def test_not_ready_without_the_object_store(house: House) -> None:
    house.blobs.is_down = True
    answer = await house.anonymous.get("/health/ready")
    assert answer.status_code == 503
    assert answer.json()["missing"] == ["the object store does not answer"]


async def test_not_ready_without_the_moderator_for_nothing_passes_unseen(house: House) -> None:
    house.moderator.is_lost = True
    answer = await house.anonymous.get("/health/ready")
    assert answer.status_code == 503
    assert answer.json()["missing"] == ["the moderator does not answer"]


async def test_ready_without_a_moderator_where_nobody_is_to_look(houses: OpenHouse) -> None:
    house = await houses(moderation={"action": "off"})
    house.moderator.is_lost = True
    assert (await house.anonymous.get("/health/ready")).status_code == 200


async def test_not_ready_without_the_database_yet_alive(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    async def away() -> None:
        raise Unavailable("no answer")

    monkeypatch.setattr(house.mongo, "ping", away)
    answer = await house.anonymous.get("/health/ready")
    assert answer.status_code == 503
    assert answer.json()["missing"] == ["the job database does not answer"]
    assert (await house.anonymous.get("/health/live")).status_code == 200


async def test_metrics_are_prometheus_text_with_our_names(shared: House) -> None:
    answer = await shared.anonymous.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["Content-Type"].startswith("text/plain")
    families = {family.name for family in text_string_to_metric_families(answer.text)}
    assert {"darkroom_http_requests", "darkroom_jobs_accepted", "darkroom_jobs_driven"} <= families
