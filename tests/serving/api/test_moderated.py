"""What the moderator flags, on every way of a picture: blocked, blurred, flagged or let be, as its tenant says."""

import base64
import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipelines.media import read_provenance
from tests.fake_pictures import MARKER, flagged_picture
from tests.serving.api.conftest import EDITS, GOOD, NATIVE, OPENAI, assert_error, events_of, mask_bytes, picture_bytes
from tests.serving.house import House, eventually

FLAGGED = {**GOOD, "prompt": "magenta, all over"}
ACTIONS = ("block", "blur", "flag", "off")


async def set_policy(house: House, **settings: Any) -> None:
    """For alice; her policy was not looked up before, so no cache is in the way."""
    answer = await house.operator.patch("/v1/admin/tenants/alice", json=settings)
    assert answer.status_code == 200, answer.text


def shows_its_square(data: bytes) -> bool:
    """Whether the small black square in the corner of a flagged picture can be made out."""
    with Image.open(io.BytesIO(data)) as picture:
        pixels = np.asarray(picture.convert("L"), dtype=np.float32)
    side = pixels.shape[0] // 16
    return float(pixels[:side, :side].mean()) < 30 and float(pixels[-side:, -side:].mean()) > 60


def stored_pictures(house: House) -> list[bytes]:
    return [house.blobs.get(key) for key in house.blobs.keys]


async def test_a_picture_that_is_flagged_is_blocked_unless_the_tenant_says_otherwise(house: House) -> None:
    message = assert_error(await house.alice.post(OPENAI, json=FLAGGED), 400, code="moderation_blocked")
    assert "sexual" in message
    assert house.blobs.keys == []
    assert house.backend.calls != [], "it was the picture that was flagged, not the prompt"


async def test_one_picture_of_several_that_is_blocked_blocks_them_all(house: House) -> None:
    assert_error(await house.alice.post(OPENAI, json={**FLAGGED, "n": 3}), 400, code="moderation_blocked")
    assert house.blobs.keys == []


async def test_a_blocked_job_has_failed_at_its_first_attempt_and_says_why(house: House) -> None:
    answer = await house.alice.post(NATIVE, json=FLAGGED, headers={"Prefer": "wait=20"})
    job = answer.json()
    assert answer.status_code == 200
    assert (job["status"], job["error"]["code"], job["attempts"], job["result"]) == (
        "failed",
        "moderation_blocked",
        1,
        None,
    )
    assert house.blobs.keys == []


@pytest.mark.parametrize("route", [OPENAI, NATIVE])
async def test_a_harmless_picture_passes_and_says_that_it_was_looked_at(house: House, route: str) -> None:
    answer = await house.alice.post(route, json=GOOD, headers={"Prefer": "wait=20"} if route == NATIVE else {})
    body = answer.json()
    found = body["data"] if route == OPENAI else body["result"]["images"]
    assert [image["is_nsfw"] for image in found] == [False]
    assert len(house.moderator.looked_at) == 2, "the picture and its one preview"


@pytest.mark.parametrize("format", ["png", "jpeg", "webp"])
async def test_blur_stores_the_picture_blurred_and_its_origin_with_it(house: House, format: str) -> None:
    await set_policy(house, moderation_action="blur")
    answer = await house.alice.post(OPENAI, json={**FLAGGED, "output_format": format, "size": "128x128"})
    [image] = answer.json()["data"]
    assert image["is_nsfw"] is True
    [stored] = stored_pictures(house)
    assert shows_its_square(house.moderator.looked_at[-1])
    assert not shows_its_square(stored)
    assert house.blobs.open_url(image["url"]) == stored
    provenance = read_provenance(stored)
    assert provenance.darkroom is not None
    assert provenance.darkroom["request"]["prompt"] == FLAGGED["prompt"]
    job = await house.store.get("alice", answer.json()["job_id"])
    assert job.result is not None
    [kept] = job.result.images  # type: ignore[union-attr]
    assert kept.num_bytes == len(stored)


async def test_flag_stores_the_picture_as_it_is_and_says_so(house: House) -> None:
    await set_policy(house, moderation_action="flag")
    answer = await house.alice.post(OPENAI, json=FLAGGED)
    assert [image["is_nsfw"] for image in answer.json()["data"]] == [True]
    assert [shows_its_square(data) for data in stored_pictures(house)] == [True]


async def test_off_asks_nobody(house: House) -> None:
    await set_policy(house, moderation_action="off")
    answer = await house.alice.post(OPENAI, json=FLAGGED)
    assert [image["is_nsfw"] for image in answer.json()["data"]] == [None]
    assert house.moderator.looked_at == []


async def test_the_policy_of_one_tenant_says_nothing_of_another(house: House) -> None:
    await set_policy(house, moderation_action="off")
    assert (await house.alice.post(OPENAI, json=FLAGGED)).status_code == 200
    assert_error(await house.bob.post(OPENAI, json=FLAGGED), 400, code="moderation_blocked")


async def test_low_moderation_lets_through_what_is_not_certain(house: House) -> None:
    house.moderator.classifier = AllOfIt(score=0.85)
    assert_error(await house.alice.post(OPENAI, json=GOOD), 400, code="moderation_blocked")
    answer = await house.alice.post(OPENAI, json={**GOOD, "moderation": "low"})
    assert [image["is_nsfw"] for image in answer.json()["data"]] == [False]


async def test_a_stream_shows_no_preview_of_what_is_blocked(house: House) -> None:
    body = {**FLAGGED, "num_inference_steps": 6, "stream": True, "partial_images": 3}
    events = events_of(await house.alice.post(OPENAI, json=body))
    assert [name for name, _ in events] == ["error"]
    assert events[0][1]["error"]["code"] == "moderation_blocked"


@pytest.mark.parametrize(("action", "is_shown_as_it_is"), [("blur", False), ("flag", True), ("off", True)])
async def test_previews_are_shown_as_the_picture_is(house: House, action: str, is_shown_as_it_is: bool) -> None:
    await set_policy(house, moderation_action=action)
    body = {**FLAGGED, "num_inference_steps": 6, "stream": True, "partial_images": 2, "size": "128x128"}
    events = events_of(await house.alice.post(OPENAI, json=body))
    partial = [base64.b64decode(data["b64_json"]) for name, data in events if name.endswith("partial_image")]
    assert [shows_its_square(data) for data in partial] == [is_shown_as_it_is] * 2
    completed = [data for name, data in events if name.endswith("completed")]
    assert [data["is_nsfw"] for data in completed] == [{"blur": True, "flag": True, "off": None}[action]]


async def test_a_prompt_that_is_flagged_is_blocked_before_anything_is_made(house: House) -> None:
    bad = {**GOOD, "prompt": "explicit hardcore porn, nude woman having sex"}
    assert_error(await house.alice.post(OPENAI, json=bad), 400, code="moderation_blocked", param="prompt")
    assert_error(await house.alice.post(NATIVE, json=bad), 400, code="moderation_blocked", param="prompt")
    assert house.backend.calls == []


async def test_what_one_does_not_want_to_see_may_be_named(house: House) -> None:
    wish = {**GOOD, "negative_prompt": "nsfw, nude, porn"}
    assert (await house.alice.post(OPENAI, json=wish)).status_code == 200


async def test_under_flag_a_prompt_passes_and_its_picture_is_looked_at(house: House) -> None:
    await set_policy(house, moderation_action="flag")
    assert (await house.alice.post(OPENAI, json={**GOOD, "prompt": "hardcore porn"})).status_code == 200
    assert len(house.moderator.looked_at) == 1


async def test_a_picture_to_start_from_is_looked_at_before_it_is_stored(house: House) -> None:
    files = {"image": ("a.png", picture_bytes(color=MARKER), "image/png")}
    form = {"prompt": "a red apple", "num_inference_steps": "2"}
    assert_error(await house.alice.post(EDITS, data=form, files=files), 400, code="moderation_blocked")
    assert house.blobs.keys == []
    assert house.backend.calls == []


async def test_under_blur_an_edit_starts_from_the_blurred_picture(house: House) -> None:
    await set_policy(house, moderation_action="blur")
    out = io.BytesIO()
    flagged_picture(128, 128).save(out, "PNG")
    files = {"image": ("a.png", out.getvalue(), "image/png"), "mask": ("m.png", mask_bytes(128, 128), "image/png")}
    answer = await house.alice.post(EDITS, data={"prompt": "a red apple", "num_inference_steps": "2"}, files=files)
    assert answer.status_code == 200, answer.text
    [start] = [key for key in house.blobs.keys if key.endswith("image.png")]
    assert shows_its_square(out.getvalue())
    assert not shows_its_square(house.blobs.get(start))


async def test_of_a_mask_nothing_is_kept_but_its_transparency(house: House) -> None:
    mask = Image.open(io.BytesIO(mask_bytes(64, 64)))
    shown = Image.new("RGBA", mask.size, (*MARKER, 255))
    shown.putalpha(mask.getchannel("A"))
    out = io.BytesIO()
    shown.save(out, "PNG")
    files = {"image": ("a.png", picture_bytes(), "image/png"), "mask": ("m.png", out.getvalue(), "image/png")}
    answer = await house.alice.post(EDITS, data={"prompt": "a red apple", "num_inference_steps": "2"}, files=files)
    assert answer.status_code == 200, answer.text
    [kept] = [key for key in house.blobs.keys if "/mask." in key]
    with Image.open(io.BytesIO(house.blobs.get(kept))) as stored:
        assert stored.getchannel("A").tobytes() == mask.getchannel("A").tobytes()
        assert stored.convert("RGB").getextrema() == ((0, 0), (0, 0), (0, 0))


async def test_while_nobody_looks_a_picture_waits_and_is_kept_when_somebody_does(house: House) -> None:
    house.moderator.is_lost = True
    job = (await house.alice.post(NATIVE, json=GOOD)).json()

    async def was_tried() -> bool:
        return bool((await house.alice.get(f"/v1/jobs/{job['id']}")).json()["history"])

    await eventually(was_tried)
    assert house.blobs.keys == []
    house.moderator.is_lost = False
    ended = await house.until(await house.store.get("alice", job["id"]), "succeeded")
    assert {attempt.code for attempt in ended.history} == {"moderator_unavailable"}


async def test_a_moderator_that_is_back_in_a_moment_costs_no_picture_a_second_making(house: House) -> None:
    house.moderator.is_lost = True
    job = (await house.alice.post(NATIVE, json=GOOD)).json()
    await eventually(lambda: house.backend.calls)
    house.moderator.is_lost = False
    ended = await house.until(await house.store.get("alice", job["id"]), "succeeded")
    assert (ended.attempts, house.backend.calls) == (1, [job["id"]])


class AllOfIt:
    """Finds the same in every picture."""

    name = "all-of-it"

    def __init__(self, score: float = 1.0) -> None:
        self._score = score

    def look(self, pictures: Any) -> list[dict[str, float]]:
        return [{"sexual": self._score} for _ in pictures]
