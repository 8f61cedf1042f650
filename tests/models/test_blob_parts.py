"""Objects sent in parts, and objects that must be the very ones that were meant, against a real S3 server."""

import httpx
import pytest

from models.blobs import BlobStore
from models.errors import BlobChanged, BlobError, BlobNotFound

PART = b"p" * 5_242_880  # the smallest that S3 takes before the last


def send(blobs: BlobStore, key: str, parts_id: str, number: int, data: bytes) -> int:
    url = blobs.parts.presign(key, parts_id, number, num_bytes=len(data), expiry_s=60)
    return httpx.put(url, content=data).status_code


def test_what_was_sent_in_parts_becomes_one_object(blobs: BlobStore) -> None:
    parts_id = blobs.parts.begin("p1/video", "video/mp4")
    assert blobs.parts.list("p1/video", parts_id) == []
    assert send(blobs, "p1/video", parts_id, 2, b"the end") == 200
    assert [(part.number, part.size_bytes) for part in blobs.parts.list("p1/video", parts_id)] == [(2, 7)]
    assert not blobs.exists("p1/video")
    assert send(blobs, "p1/video", parts_id, 1, PART) == 200
    blobs.parts.finish("p1/video", parts_id, blobs.parts.list("p1/video", parts_id))
    assert blobs.get("p1/video") == PART + b"the end"
    assert blobs.head("p1/video").content_type == "video/mp4"


def test_a_part_may_be_sent_again_and_the_last_one_counts(blobs: BlobStore) -> None:
    parts_id = blobs.parts.begin("p2/video", "video/mp4")
    for data in (b"first", b"other"):
        assert send(blobs, "p2/video", parts_id, 1, data) == 200
    blobs.parts.finish("p2/video", parts_id, blobs.parts.list("p2/video", parts_id))
    assert blobs.get("p2/video") == b"other"


def test_a_part_of_another_length_than_signed_is_refused(blobs: BlobStore) -> None:
    parts_id = blobs.parts.begin("p3/video", "video/mp4")
    url = blobs.parts.presign("p3/video", parts_id, 1, num_bytes=4, expiry_s=60)
    assert httpx.put(url, content=b"five!").status_code == 403
    assert httpx.put(url, content=b"four").status_code == 200
    blobs.parts.abort_all("p3/video")


def test_giving_up_takes_all_that_was_begun_at_the_key_and_nothing_else(blobs: BlobStore) -> None:
    first, second = (blobs.parts.begin("p4/video", "video/mp4") for _ in range(2))
    neighbour = blobs.parts.begin("p4/video-2", "video/mp4")
    blobs.parts.abort_all("p4/video")
    for parts_id in (first, second):
        assert send(blobs, "p4/video", parts_id, 1, b"late") == 404
        with pytest.raises(BlobNotFound):
            blobs.parts.list("p4/video", parts_id)
    assert send(blobs, "p4/video-2", neighbour, 1, b"in time") == 200
    blobs.parts.abort_all("p4/video-2")
    blobs.parts.abort_all("p4/never")


def test_once_finished_no_part_can_change_it_and_giving_up_leaves_it(blobs: BlobStore) -> None:
    parts_id = blobs.parts.begin("p5/video", "video/mp4")
    send(blobs, "p5/video", parts_id, 1, b"good")
    blobs.parts.finish("p5/video", parts_id, blobs.parts.list("p5/video", parts_id))
    assert send(blobs, "p5/video", parts_id, 1, b"evil") == 404
    with pytest.raises(BlobNotFound):
        blobs.parts.list("p5/video", parts_id)
    blobs.parts.abort_all("p5/video")
    assert blobs.get("p5/video") == b"good"


def test_a_presigned_put_takes_exactly_the_length_that_was_signed(blobs: BlobStore) -> None:
    url = blobs.presign_put("p6/file", 60, "image/png", num_bytes=4)
    for data in (b"five!", b"3ch", iter([b"four"])):  # the last says no length beforehand
        assert httpx.put(url, content=data, headers={"Content-Type": "image/png"}).status_code == 403
    assert httpx.put(url, content=b"four", headers={"Content-Type": "image/png"}).status_code == 200


@pytest.mark.parametrize("num_bytes", [4, 20_000_000])  # the larger one is copied in parts
def test_only_the_object_that_was_meant_is_read_and_copied(blobs: BlobStore, num_bytes: int) -> None:
    blobs.put("p7/file", b"a" * num_bytes, "video/mp4")
    etag = blobs.head("p7/file").etag
    assert b"".join(blobs.read("p7/file", etag=etag)) == b"a" * num_bytes
    blobs.copy("p7/file", "p7/copy", etag=etag)
    assert blobs.get("p7/copy") == b"a" * num_bytes
    blobs.put("p7/file", b"b" * num_bytes, "video/mp4")
    with pytest.raises(BlobChanged):
        next(blobs.read("p7/file", etag=etag))
    with pytest.raises(BlobChanged):
        blobs.copy("p7/file", "p7/other", etag=etag)
    assert not blobs.exists("p7/other")
    blobs.delete("p7/file")
    with pytest.raises(BlobNotFound):
        next(blobs.read("p7/file", etag=etag))


def test_a_browser_of_another_origin_may_send_a_file(blobs: BlobStore) -> None:
    """The console is served by the API, and its page PUTs to the object store."""
    url = blobs.presign_put("p8/file", 60, "image/png", num_bytes=4)
    origin = {"Origin": "http://127.0.0.1:8000"}
    asked = {"Access-Control-Request-Method": "PUT", "Access-Control-Request-Headers": "content-type"}
    allowed = httpx.options(url, headers={**origin, **asked}).headers
    assert allowed["access-control-allow-origin"] in {origin["Origin"], "*"}
    assert "PUT" in allowed["access-control-allow-methods"]
    assert allowed["access-control-allow-headers"] in {"content-type", "*"}
    sent = httpx.put(url, content=b"four", headers={"Content-Type": "image/png", **origin})
    assert (sent.status_code, sent.headers["access-control-allow-origin"]) == (200, origin["Origin"])


def test_a_store_that_is_away_is_told_in_one_kind_of_error() -> None:
    away = BlobStore(endpoint="http://127.0.0.1:9", bucket="none", access_key="a", secret_key="b", timeout_s=0.5)
    calls = (
        lambda: away.parts.begin("k", "video/mp4"),
        lambda: away.parts.list("k", "id"),
        lambda: away.parts.abort_all("k"),
        lambda: next(away.read("k")),
    )
    for call in calls:
        with pytest.raises(BlobError, match="no answer"):
            call()
