"""POST /v1/loras/train: from uploads to a published LoRA, as a job like any other; and what is refused."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from configs.settings import MongoSettings
from serving.backends.training import TrainingFailure
from serving.errors import BackendLost
from tests.frames import uploaded, video
from tests.serving.api.conftest import NATIVE, assert_error, events_of, picture_bytes
from tests.serving.conftest import OpenHouse
from tests.serving.house import House, eventually, open_house
from tests.trainings import BASE_SHA256, ESTIMATE, STAGES, TIMES_S, TRAIN
from tests.uploads import UPLOADS, announced, completed

WAIT = {"Prefer": "wait=60"}
BLOCKED = "explicit hardcore porn, nude woman having sex"
GOOD: dict[str, Any] = {"name": "signer", "trigger": "sks person", "steps": 30, "seed": 7}


@pytest_asyncio.fixture(scope="module")
async def shared(module_mongo_settings: MongoSettings) -> AsyncIterator[House]:
    house = await open_house(module_mongo_settings)
    yield house
    await house.close()


@pytest_asyncio.fixture(scope="module")
async def upload_id(shared: House) -> str:
    return await uploaded(shared.alice, shared.blobs, video())


async def train(house: House, upload_id: str, **body: Any) -> Any:
    """A job that has ended."""
    answer = await house.alice.post(TRAIN, json={**GOOD, "upload_ids": [upload_id], **body}, headers=WAIT)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_a_video_becomes_a_lora_that_the_next_picture_uses(shared: House, upload_id: str) -> None:
    job = await train(shared, upload_id, user="anna", metadata={"order": "17"}, caption="none", rank=4)
    assert (job["kind"], job["status"], job["progress"]) == ("lora", "succeeded", 100)
    assert (job["model"], job["backend"], job["metadata"]) == ("training", "trainer", {"order": "17"})
    values = job["request"].pop("recipe_values")
    assert (values["lora"]["rank"], values["loop"]["steps"], values["captions"]["mode"]) == (4, 30, "none")
    assert job["request"] == {
        "name": "signer",
        "base_model": "emoji-3d",
        "trigger": "sks person",
        "caption": "none",
        "recipe": "subject",
        "steps": 30,
        "rank": 4,
        "resolution": 128,
        "seed": 7,
        "upload_ids": [upload_id],
        "from_job": None,
        "captions": {},
    }
    name, _, version = job["result"]["adapter"].partition("@")
    assert name == "signer"
    lora = (await shared.alice.get(f"/v1/loras/{name}")).json()
    assert lora["latest"] == job["result"]["adapter"]
    assert lora["versions"][0]["sha256"] == job["result"]["sha256"]
    body = {"prompt": "sks person", "size": "64x64", "loras": [{"name": name}]}
    picture = await shared.alice.post(NATIVE, json=body, headers=WAIT)
    assert picture.json()["request"]["loras"] == [{"name": f"{name}@{version}", "scale": 1.0}]


async def test_the_result_says_what_speaks_for_it_and_every_url_leads_somewhere(shared: House, upload_id: str) -> None:
    result = (await train(shared, upload_id, name="proof", seed=8))["result"]
    data = shared.blobs.open_url(result["url"])
    assert (len(data), result["trigger"]) == (result["bytes"], "sks person")
    assert (result["frames_used"], result["frames_rejected"]) == (len(TIMES_S), {"blurry": 1})
    assert (result["loss"], result["validation_loss"]) == ([[0, 0.5], [30, 0.25]], [[0, 0.4], [30, 0.3]])
    assert result["quality"] == {
        "validation_loss_before": 0.4,
        "validation_loss_after": 0.3,
        "distance_before": 0.5,
        "distance_after": 0.3,
        "best_step": 30,
        "held_out": 1,
    }
    assert result["samples"] == [sample["url"] for sample in result["sample_details"]]
    assert [sample["step"] for sample in result["sample_details"]] == [0, 30]
    for sample in result["sample_details"]:
        assert len(shared.blobs.open_url(sample["url"])) == sample["bytes"]
        assert (sample["prompt"], sample["is_nsfw"], sample["content_type"]) == ("sks person", False, "image/png")
    assert shared.blobs.open_url(result["loss_plot_url"]).startswith(b"\x89PNG")
    assert b"sks person" in shared.blobs.open_url(result["dataset_url"])


async def test_a_version_tells_what_it_was_made_of(shared: House, upload_id: str) -> None:
    job = await train(shared, upload_id, name="lineage", seed=9)
    (version,) = (await shared.alice.get("/v1/loras/lineage")).json()["versions"]
    lineage = version["lineage"]
    assert (lineage["source"], lineage["job_id"], lineage["import_id"]) == (job["id"], job["id"], None)
    assert (lineage["recipe"], lineage["base_sha256"]) == ("subject", BASE_SHA256)
    assert shared.blobs.open_url(lineage["dataset_url"]) == shared.blobs.open_url(job["result"]["dataset_url"])
    (source,) = lineage["uploads"]
    assert (source["id"], source["kind"], source["times_s"]) == (upload_id, "video", list(TIMES_S))
    listed = (await shared.alice.get("/v1/loras")).json()["data"]
    assert lineage["job_id"] in {version["lineage"]["job_id"] for lora in listed for version in lora["versions"]}


async def test_the_stages_are_told_in_order_with_step_loss_and_time_to_go(houses: OpenHouse) -> None:
    house = await houses()
    upload_id = await uploaded(house.alice, house.blobs, video())
    house.trainer.gate.clear()
    answer = await house.alice.post(TRAIN, json={**GOOD, "upload_ids": [upload_id]})
    assert answer.status_code == 202
    job_id = answer.json()["id"]
    assert answer.headers["Location"] == f"/v1/jobs/{job_id}"
    assert (answer.json()["stage"], answer.json()["loss"]) == (None, None)
    await eventually(lambda: house.trainer.orders)
    house.trainer.gate.set()
    told = events_of(await house.alice.get(f"/v1/jobs/{job_id}/events"))
    progress = [data for name, data in told if name == "progress"]
    assert {tuple(data) for data in progress} == {("progress", "step", "steps", "stage", "loss", "eta_s")}
    stages = [data["stage"] for data in progress if data["stage"] is not None]
    assert stages == sorted(stages, key=STAGES.index)
    shares = [data["progress"] for data in progress]
    assert shares == sorted(shares)
    assert told[-1][0] == "succeeded"


async def test_a_late_listener_is_told_where_the_job_stands_by_its_record(houses: OpenHouse) -> None:
    house = await houses(jobs={"progress_write_s": 0.001})
    upload_id = await uploaded(house.alice, house.blobs, video())
    house.trainer.gate.clear()
    job_id = (await house.alice.post(TRAIN, json={**GOOD, "upload_ids": [upload_id]})).json()["id"]

    async def is_training() -> bool:
        return (await house.store.get("alice", job_id)).stage == "train"

    await eventually(is_training)
    job = (await house.alice.get(f"/v1/jobs/{job_id}")).json()
    assert (job["stage"], job["step"], job["steps"], job["loss"], job["eta_s"]) == ("train", 30, 30, 0.25, 12.5)
    house.router.is_lost = True
    house.trainer.gate.set()
    told = events_of(await house.alice.get(f"/v1/jobs/{job_id}/events"))
    first = {"progress": 57, "step": 30, "steps": 30, "stage": "train", "loss": 0.25, "eta_s": 12.5}
    assert told[0] == ("progress", first)
    assert told[-1][0] == "succeeded"


async def test_another_training_may_go_on_from_a_dataset_with_other_captions(shared: House, upload_id: str) -> None:
    first = await train(shared, upload_id, name="first", seed=10)
    body = {"name": "second", "from_job": first["id"], "captions": {"0001.png": "sks person, waving"}}
    answer = await shared.alice.post(TRAIN, json=body, headers=WAIT)
    request = answer.json()["request"]
    assert (request["from_job"], request["upload_ids"], request["trigger"]) == (first["id"], [], "sks person")
    assert request["captions"] == {"0001.png": "sks person, waving"}
    order = shared.trainer.orders[-1]
    assert order.request.dataset == shared.trainer.orders[-2].output_prefix


@pytest.mark.parametrize("path", [TRAIN, ESTIMATE])
async def test_what_cannot_be_trained_is_refused_by_name(shared: House, upload_id: str, path: str) -> None:
    good = {**GOOD, "upload_ids": [upload_id]}
    for wish, status, param in (
        ({"name": "No such name"}, 400, "name"),
        ({"name": "emoji-3d"}, 400, "name"),
        ({"name": None}, 422, "name"),
        ({"upload_ids": []}, 400, "upload_ids"),
        ({"upload_ids": [upload_id, upload_id]}, 400, "upload_ids"),
        ({"upload_ids": "upl_1"}, 422, "upload_ids"),
        ({"upload_ids": ["upl_none"]}, 404, "upload_ids"),
        ({"base_model": "none-such"}, 404, "base_model"),
        ({"trigger": "  "}, 400, "trigger"),
        ({"trigger": "x" * 201}, 400, "trigger"),
        ({"caption": "poem"}, 422, "caption"),
        ({"caption": "model"}, 400, "caption"),
        ({"recipe": "none-such"}, 400, "recipe"),
        ({"steps": 0}, 400, "steps"),
        ({"steps": 20_001}, 400, "steps"),
        ({"steps": "30"}, 422, "steps"),
        ({"rank": 257}, 400, "rank"),
        ({"resolution": 100}, 400, "resolution"),
        ({"seed": -1}, 400, "seed"),
        ({"from_job": "job_none"}, 400, "from_job"),
        ({"from_job": "job_none", "upload_ids": []}, 404, "from_job"),
        ({"captions": {"0000.png": "a"}}, 400, "captions"),
        ({"step": 30}, 422, "step"),
    ):
        assert_error(await shared.alice.post(path, json=good | wish), status, param=param)


async def test_its_terms_are_those_of_every_job(shared: House, upload_id: str) -> None:
    good = {**GOOD, "upload_ids": [upload_id]}
    assert_error(await shared.alice.post(TRAIN, json=good | {"expires_in_s": 0.1}), 400, param="expires_in_s")
    assert_error(await shared.alice.post(TRAIN, json=good | {"priority": "high"}), 403, param="priority")
    answer = await shared.alice.post(TRAIN, json=good | {"webhook_url": "http://10.0.0.1/"})
    assert_error(answer, 400, param="webhook_url")


@pytest.mark.parametrize("path", [TRAIN, ESTIMATE])
async def test_uploads_of_nobody_or_of_others_are_not_found(shared: House, upload_id: str, path: str) -> None:
    good = {**GOOD, "upload_ids": [upload_id]}
    assert_error(await shared.anonymous.post(path, json=good), 401)
    assert_error(await shared.bob.post(path, json=good), 404, param="upload_ids")


async def test_others_see_neither_the_job_nor_its_lora_nor_its_dataset(shared: House, upload_id: str) -> None:
    job = await train(shared, upload_id, name="mine", seed=11)
    for path in (f"/v1/jobs/{job['id']}", f"/v1/jobs/{job['id']}/events", "/v1/loras/mine"):
        assert_error(await shared.bob.get(path), 404)
    answer = await shared.bob.post(TRAIN, json={"name": "theirs", "from_job": job["id"]})
    assert_error(answer, 404, param="from_job")


async def test_an_upload_that_is_not_ready_is_refused_and_a_picture_will_do(shared: House) -> None:
    pending = await announced(shared.alice, video(), "video/mp4", "video")
    answer = await shared.alice.post(TRAIN, json={**GOOD, "upload_ids": [pending["id"]]})
    assert_error(answer, 409, code="upload_not_ready", param="upload_ids")
    image = await completed(shared.alice, shared.blobs, picture_bytes(300, 300), "image/png", "image")
    job = await train(shared, image.json()["id"], name="pictures", seed=12)
    assert shared.trainer.orders[-1].request.sources[0].kind == "image"
    assert job["status"] == "succeeded"


async def test_the_same_idempotency_key_gives_the_same_job(shared: House, upload_id: str) -> None:
    headers = {"Idempotency-Key": "the signer of today"}
    body = {**GOOD, "upload_ids": [upload_id], "name": "once", "seed": 13}
    first = await shared.alice.post(TRAIN, json=body, headers=headers)
    again = await shared.alice.post(TRAIN, json=body, headers=headers | WAIT)
    assert again.json()["id"] == first.json()["id"]
    assert again.headers["Idempotent-Replayed"] == "true"
    other = await shared.alice.post(TRAIN, json={**body, "steps": 31}, headers=headers)
    assert_error(other, 409, code="idempotency_key_reused")


async def test_words_that_the_policy_blocks_are_not_learned(shared: House, upload_id: str) -> None:
    first = await train(shared, upload_id, name="words", seed=15)
    for wish, param in (
        ({"upload_ids": [upload_id], "trigger": BLOCKED}, "trigger"),
        ({"from_job": first["id"], "captions": {"0000.png": BLOCKED}}, "captions"),
    ):
        answer = await shared.alice.post(TRAIN, json={**GOOD, **wish})
        assert_error(answer, 400, code="moderation_blocked", param=param)


async def test_a_failed_training_says_why_and_publishes_nothing(houses: OpenHouse) -> None:
    house = await houses()
    upload_id = await uploaded(house.alice, house.blobs, video())
    house.trainer.troubles.append(TrainingFailure("too_few_pictures", "2 pictures are too few.", may_pass=False))
    job = await train(house, upload_id)
    assert (job["status"], job["attempts"]) == ("failed", 1)
    assert job["error"] == {"code": "too_few_pictures", "message": "2 pictures are too few."}
    assert_error(await house.alice.get("/v1/loras/signer"), 404)


async def test_the_death_of_a_trainer_costs_one_attempt(houses: OpenHouse) -> None:
    house = await houses()
    upload_id = await uploaded(house.alice, house.blobs, video())
    house.trainer.troubles.append(BackendLost("trainer: it died"))
    job = await train(house, upload_id)
    assert (job["status"], job["attempts"]) == ("succeeded", 2)
    assert [attempt["code"] for attempt in job["history"]] == ["backend_lost"]


async def test_an_upload_tells_which_lora_was_made_from_it(shared: House) -> None:
    upload_id = await uploaded(shared.alice, shared.blobs, video())
    job = await train(shared, upload_id, name="derived", seed=14)
    derived = (await shared.alice.delete(f"{UPLOADS}/{upload_id}")).json()["derived"]
    assert {"kind": "lora", "id": "derived@1"} in derived
    assert shared.blobs.open_url(job["result"]["url"])
