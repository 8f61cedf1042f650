"""POST /v1/loras/estimate: what a training would take, and what is said where nobody can tell."""

from typing import Any

import pytest

from serving.backends.training import TrainingError
from serving.errors import BackendLost
from tests.frames import uploaded, video
from tests.serving.api.conftest import assert_error
from tests.serving.conftest import OpenHouse
from tests.serving.house import House
from tests.trainings import ESTIMATE

GOOD: dict[str, Any] = {"name": "signer", "trigger": "sks person", "steps": 30}


async def test_the_estimate_is_of_the_request_that_would_be_trained(shared: House) -> None:
    upload_id = await uploaded(shared.alice, shared.blobs, video())
    answer = await shared.alice.post(ESTIMATE, json={**GOOD, "upload_ids": [upload_id]})
    assert (answer.status_code, answer.json()) == (
        200,
        {
            "object": "lora.estimate",
            "time_s": 480.0,
            "frames_s": 30.0,
            "memory_bytes": 1_900_000_000,
            "free_bytes": None,
            "steps": 30,
        },
    )
    assert shared.trainer.estimated[-1].sources[0].upload_id == upload_id
    assert shared.trainer.orders == []


@pytest.mark.parametrize(
    ("trouble", "status", "code"),
    [
        (TrainingError("out_of_memory", "It does not fit."), 422, "out_of_memory"),
        (BackendLost("trainer: it died"), 503, "trainer_unavailable"),
    ],
)
async def test_an_estimate_that_cannot_be_made_says_why(
    houses: OpenHouse, trouble: BaseException, status: int, code: str
) -> None:
    house = await houses(sweeps=False)
    upload_id = await uploaded(house.alice, house.blobs, video())
    body = {**GOOD, "upload_ids": [upload_id]}
    house.trainer.estimate_answer = trouble
    answer = await house.alice.post(ESTIMATE, json=body)
    assert_error(answer, status, code=code)
    assert ("Retry-After" in answer.headers) == (status == 503)
    house.trainer.is_lost = True
    answer = await house.alice.post(ESTIMATE, json=body)
    assert_error(answer, 503, code="trainer_unavailable")
    assert answer.headers["Retry-After"]
