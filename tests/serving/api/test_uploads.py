"""/v1/uploads: announced, sent, completed, listed, read, deleted; each tenant alone with its own."""

import io

import httpx
import pytest
from PIL import Image

from tests.serving.api.conftest import assert_error, picture_bytes
from tests.serving.conftest import OpenHouse
from tests.serving.house import House
from tests.uploads import UPLOADS, announced, completed, offer, sent

PNG = picture_bytes(300, 260)


async def test_an_announced_file_is_put_to_its_url_and_completed(shared: House) -> None:
    upload = await announced(shared.alice, PNG, "image/png", "image", user="u-7")
    assert (upload["object"], upload["status"], upload["method"]) == ("upload", "pending", "PUT")
    assert upload["headers"] == {"Content-Type": "image/png", "Content-Length": str(len(PNG))}
    assert upload["created_at"] < upload["expires_at"] <= upload["forgotten_at"]
    assert shared.blobs.send(upload["url"], PNG, {"Content-Type": "text/html"}) == 403
    assert shared.blobs.send(upload["url"], PNG + b"!", upload["headers"]) == 403
    assert shared.blobs.send(upload["url"], PNG, upload["headers"]) == 200
    answer = await shared.alice.post(f"{UPLOADS}/{upload['id']}/complete")
    ready = answer.json()
    assert (answer.status_code, ready["status"], ready["id"]) == (200, "ready", upload["id"])
    assert ready["media"]["kind"] == "image"
    assert (ready["media"]["width"], ready["media"]["height"]) == (300, 260)
    assert len(ready["sha256"]) == 64
    with Image.open(io.BytesIO(shared.blobs.open_url(ready["url"]))) as kept:
        assert (kept.format, kept.size) == ("PNG", (300, 260))
    assert "/tenants/alice/uploads/u-7/" in ready["url"]
    again = await shared.alice.post(f"{UPLOADS}/{upload['id']}/complete")
    assert again.json()["sha256"] == ready["sha256"]
    assert not [key for key in shared.blobs.keys if key.startswith("temp/")]


async def test_a_large_picture_gets_a_small_one_beside_it(shared: House) -> None:
    ready = (await completed(shared.alice, shared.blobs, picture_bytes(1_200, 600), "image/png", "image")).json()
    with Image.open(io.BytesIO(shared.blobs.open_url(ready["thumbnail_url"]))) as thumbnail:
        assert max(thumbnail.size) == 512


@pytest.mark.parametrize(
    ("changes", "status", "code", "param", "says"),
    [
        ({"purpose": "audio"}, 422, "invalid_value", "purpose", "image"),
        ({"content_type": "text/html"}, 422, "unsupported_type", "content_type", "image/webp"),
        ({"content_type": "video/mp4"}, 422, "unsupported_type", "content_type", "image/jpeg"),
        ({"content_type": "application/octet-stream"}, 422, "unsupported_type", "content_type", "image/png"),
        ({"content_type": "image/svg+xml"}, 422, "unsupported_type", "content_type", "image/png"),
        ({"bytes": 10_000_001}, 422, "too_large", "bytes", "10000000"),
        ({"bytes": 10**16}, 422, "invalid_value", "bytes", "less than"),
        ({"bytes": 0}, 422, "empty_file", "bytes", "empty"),
        ({"bytes": -1}, 422, "invalid_value", "bytes", "greater"),
        ({"bytes": 1.5}, 422, "invalid_value", "bytes", "int"),
        (
            {"purpose": "video", "content_type": "video/mp4", "bytes": 4_000_000_001},
            422,
            "too_large",
            "bytes",
            "4000000000",
        ),
        ({"filename": "x" * 5_000}, 422, "invalid_value", "filename", "4096"),
        ({"user": "a\x00b"}, 400, "invalid_value", "user", "control"),
        ({"size": 3}, 422, "invalid_value", "size", "Extra"),
    ],
)
async def test_an_offer_that_cannot_be_taken_is_refused_at_once(
    shared: House, changes: dict, status: int, code: str, param: str, says: str
) -> None:
    answer = await shared.alice.post(UPLOADS, json={**offer(PNG, "image/png", "image"), **changes})
    assert says in assert_error(answer, status, code=code, param=param)


@pytest.mark.parametrize(
    ("filename", "shown"),
    [
        ("../../../etc/passwd", "_.._.._etc_passwd"),
        ("/", "_"),
        ("x" * 4_000 + ".png", "x" * 196 + ".png"),
        ("a\x07b\u202e.png", "ab.png"),
    ],
)
async def test_a_name_is_never_part_of_a_key(shared: House, filename: str, shown: str) -> None:
    upload = await announced(shared.alice, PNG, "image/png", "image", filename=filename)
    assert upload["filename"] == shown
    assert upload["url"].partition("?")[0].endswith(f"/temp/{upload['id']}/incoming")


async def test_half_a_surrogate_pair_in_a_name_is_no_trouble(shared: House) -> None:
    body = '{"filename": "\\ud83d.png", "content_type": "image/png", "bytes": 5, "purpose": "image"}'
    answer = await shared.alice.post(UPLOADS, content=body, headers={"Content-Type": "application/json"})
    assert_error(answer, 422, param="filename")


async def test_what_a_tenant_may_send_is_its_own(houses: OpenHouse) -> None:
    house = await houses(sweeps=False)
    own = {"max_image_bytes": 100, "max_video_bytes": 5_000_000_000, "max_stored_bytes": 50_000_000_000}
    assert (await house.operator.patch("/v1/admin/tenants/alice", json=own)).status_code == 200
    refused = await house.alice.post(UPLOADS, json=offer(b"x" * 101, "image/png", "image"))
    assert "101 bytes; this tenant's limit for one image is 100" in assert_error(refused, 422, code="too_large")
    wide = {**offer(b"", "video/mp4", "video"), "bytes": 4_500_000_000}
    assert (await house.alice.post(UPLOADS, json=wide)).status_code == 201
    assert_error(await house.bob.post(UPLOADS, json=wide), 422, code="too_large")


async def test_all_that_was_announced_and_stored_counts_against_the_tenants_room(houses: OpenHouse) -> None:
    house = await houses(sweeps=False)
    await house.operator.patch("/v1/admin/tenants/alice", json={"max_stored_bytes": 2_000})
    ready = (await completed(house.alice, house.blobs, PNG, "image/png", "image")).json()
    pending = await announced(house.alice, b"x" * 500, "image/png", "image")
    refused = await house.alice.post(UPLOADS, json=offer(b"x" * 900, "image/png", "image"))
    assert "2000 bytes in all" in assert_error(refused, 409, code="storage_full")
    assert (await house.alice.delete(f"{UPLOADS}/{pending['id']}")).status_code == 200
    assert (await house.alice.delete(f"{UPLOADS}/{ready['id']}")).status_code == 200
    assert (await house.alice.post(UPLOADS, json=offer(b"x" * 1_900, "image/png", "image"))).status_code == 201


async def test_too_many_that_nobody_completes_are_refused_for_now(houses: OpenHouse) -> None:
    house = await houses(sweeps=False, uploads={"max_pending": 2})
    first = await announced(house.alice, PNG, "image/png", "image")
    await announced(house.alice, PNG, "image/png", "image")
    refused = await house.alice.post(UPLOADS, json=offer(PNG, "image/png", "image"))
    assert_error(refused, 429, code="too_many_uploads")
    assert int(refused.headers["Retry-After"]) > 0
    assert (await house.bob.post(UPLOADS, json=offer(PNG, "image/png", "image"))).status_code == 201
    await house.alice.delete(f"{UPLOADS}/{first['id']}")
    await announced(house.alice, PNG, "image/png", "image")


async def test_the_same_call_under_its_key_is_the_same_upload(shared: House) -> None:
    body, headers = offer(PNG, "image/png", "image"), {"Idempotency-Key": "up-1"}
    refused = await shared.alice.post(UPLOADS, json={**body, "bytes": 0}, headers=headers)
    assert refused.status_code == 422  # and leaves the key free
    first = await shared.alice.post(UPLOADS, json=body, headers=headers)
    second = await shared.alice.post(UPLOADS, json=body, headers=headers)
    assert first.json()["id"] == second.json()["id"]
    assert second.headers["Idempotent-Replayed"] == "true"
    other = await shared.alice.post(UPLOADS, json={**body, "bytes": 7}, headers=headers)
    assert_error(other, 409, code="idempotency_key_reused")


async def direct(client: httpx.AsyncClient, data: bytes, content_type: str, **fields: str) -> httpx.Response:
    files = {"file": ("a/../picture.png", data, content_type)}
    return await client.post(f"{UPLOADS}/direct", files=files, data={"purpose": "image", **fields})


async def test_a_small_file_comes_in_one_call(shared: House) -> None:
    answer = await direct(shared.alice, PNG, "image/png")
    ready = answer.json()
    assert (answer.status_code, ready["status"], ready["filename"]) == (201, "ready", "a_.._picture.png")
    named = await direct(shared.alice, PNG, "application/octet-stream", filename="mine.png")
    assert (named.json()["filename"], named.json()["content_type"]) == ("mine.png", "image/png")
    assert not [key for key in shared.blobs.keys if key.startswith("temp/")]


async def test_a_direct_upload_is_judged_like_any_other(shared: House) -> None:
    assert_error(await direct(shared.alice, b"", "image/png"), 422, code="empty_file")
    assert_error(await direct(shared.alice, PNG, "image/jpeg"), 422, code="type_mismatch")
    assert_error(await direct(shared.alice, PNG, "text/plain"), 422, code="unsupported_type")
    assert_error(await direct(shared.alice, PNG, "image/png", purpose="audio"), 422, param="purpose")
    assert_error(await shared.alice.post(f"{UPLOADS}/direct", data={"purpose": "image"}), 415)
    assert_error(await shared.alice.post(f"{UPLOADS}/direct", json={}), 415)


async def test_a_direct_upload_under_its_key_is_the_same_upload(shared: House) -> None:
    async def call(data: bytes) -> httpx.Response:
        files, fields = {"file": ("p.png", data, "image/png")}, {"purpose": "image"}
        headers = {"Idempotency-Key": "direct-1"}
        return await shared.alice.post(f"{UPLOADS}/direct", files=files, data=fields, headers=headers)

    first, second = await call(PNG), await call(PNG)
    assert first.json()["id"] == second.json()["id"]
    assert second.headers["Idempotent-Replayed"] == "true"
    assert_error(await call(picture_bytes(300, 300)), 409, code="idempotency_key_reused")


async def test_what_is_too_large_for_one_call_is_refused_before_it_is_read(houses: OpenHouse) -> None:
    house = await houses(sweeps=False, uploads={"multipart_above_bytes": 1_000})
    assert_error(await direct(house.alice, b"x" * 1_500, "image/png"), 413)
    assert_error(await direct(house.alice, b"x" * 200_000, "image/png"), 413, code="body_too_large")


async def test_the_list_is_newest_first_by_purpose_and_page(houses: OpenHouse) -> None:
    house = await houses(sweeps=False)
    pictures = [(await announced(house.alice, PNG, "image/png", "image"))["id"] for _ in range(3)]
    video = (await announced(house.alice, b"x", "video/mp4", "video"))["id"]
    page = (await house.alice.get(f"{UPLOADS}?limit=3")).json()
    assert ([u["id"] for u in page["data"]], page["has_more"]) == ([video, pictures[2], pictures[1]], True)
    rest = (await house.alice.get(f"{UPLOADS}?limit=3&after={page['last_id']}")).json()
    assert ([u["id"] for u in rest["data"]], rest["has_more"]) == ([pictures[0]], False)
    assert [u["id"] for u in (await house.alice.get(f"{UPLOADS}?purpose=video")).json()["data"]] == [video]
    await house.alice.delete(f"{UPLOADS}/{video}")
    assert (await house.alice.get(f"{UPLOADS}?purpose=video")).json()["data"] == []
    assert (await house.bob.get(UPLOADS)).json()["data"] == []
    assert_error(await house.alice.get(f"{UPLOADS}?limit=0"), 422, param="limit")
    assert_error(await house.alice.get(f"{UPLOADS}?after={video}"), 404)


async def test_a_pending_upload_gives_fresh_urls_and_words_for_what_is_missing(shared: House) -> None:
    upload = await announced(shared.alice, PNG, "image/png", "image")
    path = f"{UPLOADS}/{upload['id']}"
    assert "PUT it" in assert_error(await shared.alice.post(f"{path}/complete"), 409, code="not_sent")
    fresh = (await shared.alice.get(path)).json()
    assert shared.blobs.send(fresh["url"], PNG, fresh["headers"]) == 200
    assert_error(await shared.alice.get(f"{path}/parts"), 400, code="not_in_parts")
    assert (await shared.alice.post(f"{path}/complete")).status_code == 200


async def test_others_do_not_know_of_it(shared: House) -> None:
    upload = await sent(shared.alice, shared.blobs, PNG, "image/png", "image")
    path = f"{UPLOADS}/{upload['id']}"
    for client, status in ((shared.bob, 404), (shared.anonymous, 401)):
        for method, where in (("GET", path), ("GET", f"{path}/parts"), ("POST", f"{path}/complete"), ("DELETE", path)):
            assert_error(await client.request(method, where), status)
    assert_error(await shared.anonymous.post(UPLOADS, json=offer(PNG, "image/png", "image")), 401)
    assert_error(await direct(shared.anonymous, PNG, "image/png"), 401)
    assert (await shared.alice.post(f"{path}/complete")).status_code == 200


async def test_a_deletion_says_what_was_made_and_waits_for_jobs(houses: OpenHouse) -> None:
    house = await houses(sweeps=False)
    upload = (await completed(house.alice, house.blobs, PNG, "image/png", "image")).json()
    path, job = f"{UPLOADS}/{upload['id']}", await house.insert()
    await house.services.uploads.note_use("alice", upload["id"], kind="image", id=job.id)
    assert job.id in assert_error(await house.alice.delete(path), 409, code="upload_in_use")
    await house.drive(job)
    told = (await house.alice.delete(path)).json()
    derived = [{"kind": "image", "id": job.id}]
    assert told == {"id": upload["id"], "object": "upload", "deleted": True, "derived": derived}
    assert_error(await house.alice.get(path), 404, code="upload_not_found")
    assert_error(await house.alice.delete(path), 404)
    assert not [key for key in house.blobs.keys if "uploads" in key or key.startswith("temp/")]


async def test_while_nobody_looks_the_caller_is_told_to_come_back(shared: House) -> None:
    shared.frames.is_lost = True
    upload = await sent(shared.alice, shared.blobs, PNG, "image/png", "image")
    answer = await shared.alice.post(f"{UPLOADS}/{upload['id']}/complete")
    shared.frames.is_lost = False
    assert_error(answer, 503, code="frames_unavailable")
    assert int(answer.headers["Retry-After"]) > 0
    assert (await shared.alice.post(f"{UPLOADS}/{upload['id']}/complete")).status_code == 200


async def test_a_file_in_parts_says_which_are_missing(houses: OpenHouse) -> None:
    house = await houses(sweeps=False, uploads={"part_bytes": 5_242_880, "multipart_above_bytes": 6_000_000})
    data = b"\x00" * 5_242_880 + b"rest"
    upload = await announced(house.alice, data, "video/mp4", "video", multipart=True)
    assert upload["url"] is None
    assert [(part["number"], part["bytes"]) for part in upload["parts"]] == [(1, 5_242_880), (2, 4)]
    path = f"{UPLOADS}/{upload['id']}"
    assert "1, 2" in assert_error(await house.alice.post(f"{path}/complete"), 409, code="parts_missing")
    assert house.blobs.send(upload["parts"][1]["url"], b"rest") == 200
    told = (await house.alice.get(f"{path}/parts")).json()
    assert (told["missing"], [part["has_arrived"] for part in told["data"]]) == (1, [False, True])
    assert told["data"][1]["url"] is None
    assert house.blobs.send(told["data"][0]["url"], data[:5_242_880]) == 200
    assert_error(await house.alice.post(f"{path}/complete"), 422, code="not_a_video")
    assert house.blobs.keys == []
    assert house.blobs.parts.keys == []
    large = await house.alice.post(UPLOADS, json={**offer(data, "video/mp4", "video"), "bytes": 6_000_001})
    assert len(large.json()["parts"]) == 2, "large files go in parts without being asked to"


async def test_deleting_what_was_sent_in_parts_gives_them_up(houses: OpenHouse) -> None:
    house = await houses(sweeps=False)
    upload = await announced(house.alice, b"x" * 10, "video/mp4", "video", multipart=True)
    assert house.blobs.parts.keys == [f"temp/{upload['id']}/incoming"]
    assert (await house.alice.delete(f"{UPLOADS}/{upload['id']}")).status_code == 200
    assert house.blobs.parts.keys == []
    assert house.blobs.send(upload["parts"][0]["url"], b"x" * 10) == 404
