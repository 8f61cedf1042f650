"""Pictures that come in are looked at: blocked, blurred, flagged or let be, as the tenant's policy says."""

import io

import numpy as np
import pytest
from PIL import Image

from serving.tenancy import policies
from tests.moderators import MARKER
from tests.serving.api.conftest import assert_error, picture_bytes
from tests.serving.conftest import OpenHouse
from tests.serving.house import House
from tests.uploads import UPLOADS, completed, sent

MARKED = picture_bytes(300, 300, color=MARKER)
PLAIN = picture_bytes(300, 300)


async def moderated(houses: OpenHouse, action: str) -> House:
    return await houses(sweeps=False, moderation={"action": action})


async def test_a_blocked_picture_is_refused_and_is_nowhere(houses: OpenHouse) -> None:
    house = await moderated(houses, "block")
    upload = await sent(house.alice, house.blobs, MARKED, "image/png", "image")
    for _ in range(2):
        answer = await house.alice.post(f"{UPLOADS}/{upload['id']}/complete")
        assert_error(answer, 400, code="moderation_blocked")
    assert house.blobs.keys == []
    told = (await house.alice.get(f"{UPLOADS}/{upload['id']}")).json()
    assert (told["status"], told["error"]["code"]) == ("failed", "moderation_blocked")
    files = {"file": ("p.png", MARKED, "image/png")}
    direct = await house.alice.post(f"{UPLOADS}/direct", files=files, data={"purpose": "image"})
    assert_error(direct, 400, code="moderation_blocked")
    assert house.blobs.keys == []


async def test_what_is_not_flagged_passes_with_its_score(houses: OpenHouse) -> None:
    house = await moderated(houses, "block")
    ready = (await completed(house.alice, house.blobs, PLAIN, "image/png", "image")).json()
    assert (ready["is_nsfw"], ready["nsfw_score"]) == (False, 0.0)
    assert len(house.moderator.looked_at) == 1


async def test_a_blurred_picture_is_kept_blurred_and_so_is_its_thumbnail(houses: OpenHouse) -> None:
    house = await moderated(houses, "blur")
    data = half_marked()
    answer = await completed(house.alice, house.blobs, data, "image/png", "image")
    ready = answer.json()
    assert (answer.status_code, ready["is_nsfw"]) == (200, True)
    assert ready["nsfw_score"] > 0.8
    for url in (ready["url"], ready["thumbnail_url"]):
        with Image.open(io.BytesIO(house.blobs.open_url(url))) as kept:
            assert sharpness(kept) < 0.2 * sharpness(Image.open(io.BytesIO(data)))
    assert len(house.blobs.keys) == 2


async def test_a_flagged_picture_is_kept_as_it_is(houses: OpenHouse) -> None:
    house = await moderated(houses, "flag")
    ready = (await completed(house.alice, house.blobs, MARKED, "image/png", "image")).json()
    assert (ready["status"], ready["is_nsfw"], ready["nsfw_score"]) == ("ready", True, 1.0)


async def test_where_moderation_is_off_nobody_looks(houses: OpenHouse) -> None:
    house = await moderated(houses, "off")
    ready = (await completed(house.alice, house.blobs, MARKED, "image/png", "image")).json()
    assert (ready["is_nsfw"], ready["nsfw_score"]) == (None, None)
    assert house.moderator.looked_at == []


async def test_the_same_picture_blurred_and_plain_are_two_objects(
    houses: OpenHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A policy may change; who was promised the one must not get the other."""
    monkeypatch.setattr(policies, "CACHE_S", 0.0)
    house = await moderated(houses, "blur")
    data = half_marked()
    blurred = (await completed(house.alice, house.blobs, data, "image/png", "image")).json()
    await house.operator.patch("/v1/admin/tenants/alice", json={"moderation_action": "flag"})
    plain = (await completed(house.alice, house.blobs, data, "image/png", "image")).json()
    again = (await completed(house.alice, house.blobs, data, "image/png", "image")).json()
    assert blurred["sha256"] == plain["sha256"] == again["sha256"]
    shown = [house.blobs.open_url(upload["url"]) for upload in (blurred, plain, again)]
    assert shown[0] != shown[1] == shown[2]
    assert len(house.blobs.keys) == 4


async def test_without_a_moderator_nothing_passes_and_nothing_is_lost(houses: OpenHouse) -> None:
    house = await moderated(houses, "block")
    house.moderator.is_lost = True
    upload = await sent(house.alice, house.blobs, PLAIN, "image/png", "image")
    path = f"{UPLOADS}/{upload['id']}"
    assert_error(await house.alice.post(f"{path}/complete"), 503, code="moderator_unavailable")
    assert (await house.alice.get(path)).json()["status"] == "pending"
    house.moderator.is_lost = False
    assert (await house.alice.post(f"{path}/complete")).status_code == 200


def half_marked() -> bytes:
    """Marked all over but for thin lines, which a blur takes away."""
    pixels = np.full((300, 300, 3), MARKER, dtype=np.uint8)
    pixels[:, ::12] = 0
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def sharpness(image: Image.Image) -> float:
    grey = np.asarray(image.convert("L"), dtype=np.float32)
    return float(np.abs(np.diff(grey, axis=1)).mean())
