"""Whole uploads against a true S3 server: URLs that clients PUT to, parts, an interruption and its resumption."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest
import pytest_asyncio

from configs.settings import MongoSettings, Settings
from models.blobs import BlobStore
from serving.errors import AppError, Conflict
from serving.moderation.moderation import Moderation
from serving.mongo import Mongo
from serving.tenancy.policies import TenantPolicies
from serving.tenancy.tenants import Tenants
from serving.uploads.upkeep import UploadUpkeep
from serving.uploads.upload import Offer, Upload, new_upload_id
from serving.uploads.uploads import Uploads
from tests.clips import make_clip
from tests.moderators import LocalModeratorLink
from tests.s3 import S3Server
from tests.serving.api.conftest import picture_bytes
from tests.serving.uploads.bench import TENANT, WAIT_S, KnownJobs
from tests.uploads import LocalFramesLink

PART_BYTES = 5_242_880


class Counter:
    """Uploads as one process has them, over a bucket of the test's own."""

    def __init__(self, mongo: Mongo, blobs: BlobStore, settings: Settings) -> None:
        policies = TenantPolicies(Tenants(mongo), settings)
        moderation = Moderation(LocalModeratorLink(), policies, timeout_s=5.0)
        self.blobs, self.frames = blobs, LocalFramesLink(blobs, settings.uploads)
        self.uploads = Uploads(mongo, blobs, KnownJobs(), self.frames, moderation, policies, settings)
        self.upkeep = UploadUpkeep.over(mongo, blobs, KnownJobs(), settings)

    async def announce(self, data: bytes, content_type: str, *, goes_in_parts: bool = False) -> Upload:
        purpose = "image" if content_type.startswith("image/") else "video"
        offer = Offer("a file", content_type, len(data), purpose, goes_in_parts=goes_in_parts)  # type: ignore[arg-type]
        return await self.uploads.announce(TENANT, offer, upload_id=new_upload_id())

    async def complete(self, upload: Upload) -> Upload:
        return await self.uploads.complete(TENANT, upload.id, wait_s=WAIT_S)

    @property
    def keys(self) -> list[str]:
        return [blob.key for prefix in ("temp/", "tenants/") for blob in self.blobs.list(prefix)]

    def unfinished(self, upload: Upload) -> int:
        """Multipart uploads that S3 still has open."""
        reply = self.blobs._client.list_multipart_uploads(Bucket=self.blobs.bucket, Prefix=upload.incoming_key)
        return len(reply.get("Uploads", []))


@pytest.fixture
def bucket(s3_server: S3Server) -> Iterator[BlobStore]:
    store = s3_server.store("uploads-here")
    store.ensure_bucket()
    yield store
    for prefix in ("temp/", "tenants/"):
        store.delete_prefix(prefix)


@pytest_asyncio.fixture
async def counter(mongo: Mongo, mongo_settings: MongoSettings, bucket: BlobStore) -> AsyncIterator[Counter]:
    made = Counter(
        mongo, bucket, Settings.model_validate({"mongo": mongo_settings, "uploads": {"part_bytes": PART_BYTES}})
    )
    yield made
    await made.uploads.close()
    made.frames.close()


@pytest.fixture
def video(tmp_path: Path) -> bytes:
    """A good video of a little more than two parts: players skip what is padded behind it."""
    data = make_clip(tmp_path / "clip.mp4", seconds=1.0).path.read_bytes()
    padding = 2 * PART_BYTES + 1_000 - len(data)
    return data + padding.to_bytes(4) + b"free" + bytes(padding - 8)


async def test_a_picture_goes_the_whole_way(counter: Counter) -> None:
    data = picture_bytes(300, 300)
    upload, ticket = await counter.uploads.receiving.ticket(await counter.announce(data, "image/png"))
    assert ticket is not None
    wrong = {**ticket.headers, "Content-Type": "text/html"}
    async with httpx.AsyncClient() as client:
        assert (await client.put(ticket.url, content=data, headers=wrong)).status_code == 403
        assert (await client.put(ticket.url, content=data, headers=ticket.headers)).status_code == 200
        ready = await counter.complete(upload)
        assert ready.content is not None
        assert ready.content.thumbnail_key is not None
        assert counter.keys == [ready.content.file.key, ready.content.thumbnail_key]
        url = counter.blobs.presign_get(ready.content.file.key, 60, ready.filename)
        told = await client.get(url)
        assert (told.status_code, told.headers["content-type"]) == (200, "image/png")
    await counter.uploads.delete(TENANT, upload.id)
    assert counter.keys == []


async def test_an_interrupted_upload_is_resumed_with_what_is_missing(counter: Counter, video: bytes) -> None:
    upload = await counter.announce(video, "video/mp4", goes_in_parts=True)
    cut = [video[first : first + PART_BYTES] for first in range(0, len(video), PART_BYTES)]
    async with httpx.AsyncClient(timeout=60.0) as client:
        upload, parts = await counter.uploads.receiving.parts(upload)
        assert [part.num_bytes for part in parts] == [len(piece) for piece in cut]
        assert (await client.put(str(parts[2].url), content=cut[2])).status_code == 200
        assert (await client.put(str(parts[0].url), content=cut[0][:-1])).status_code == 403  # broke off
        with pytest.raises(Conflict, match="2 of 3 parts have not arrived whole: 1, 2"):
            await counter.complete(upload)
        # The client comes back with nothing but the upload's id.
        upload, parts = await counter.uploads.receiving.parts(await counter.uploads.store.get(TENANT, upload.id))
        assert [part.has_arrived for part in parts] == [False, False, True]
        for part in parts[:2]:
            assert (await client.put(str(part.url), content=cut[part.number - 1])).status_code == 200
        ready = await counter.complete(upload)
        assert (await client.put(str(parts[1].url), content=cut[1])).status_code == 404, "too late to change it"
    assert ready.content is not None
    assert counter.keys == [ready.content.file.key]
    assert counter.blobs.get(ready.content.file.key) == video
    assert counter.unfinished(upload) == 0


async def test_a_look_that_died_after_the_parts_were_put_together_is_taken_up(counter: Counter, video: bytes) -> None:
    upload = await counter.announce(video, "video/mp4", goes_in_parts=True)
    async with httpx.AsyncClient(timeout=60.0) as client:
        upload, parts = await counter.uploads.receiving.parts(upload)
        for part in parts:
            first = (part.number - 1) * PART_BYTES
            await client.put(str(part.url), content=video[first : first + PART_BYTES])
    dead = await counter.uploads.store.claim(upload)
    assert dead is not None
    await counter.uploads.receiving.collect(dead)
    assert await counter.uploads.store.wake_later(dead, 1.0) is not None
    _, parts = await counter.uploads.receiving.parts(await counter.uploads.store.get(TENANT, upload.id))
    assert all(part.has_arrived for part in parts)
    assert (await counter.complete(upload)).status == "ready"


@pytest.mark.parametrize("by", ["owner", "upkeep"])
async def test_what_is_given_up_leaves_no_parts_and_none_can_be_sent(counter: Counter, video: bytes, by: str) -> None:
    upload = await counter.announce(video, "video/mp4", goes_in_parts=True)
    upload, parts = await counter.uploads.receiving.parts(upload)
    async with httpx.AsyncClient(timeout=60.0) as client:
        assert (await client.put(str(parts[2].url), content=video[2 * PART_BYTES :])).status_code == 200
        assert counter.unfinished(upload) == 1
        if by == "owner":
            await counter.uploads.delete(TENANT, upload.id)
        else:
            assert await counter.uploads.store.wake_later(upload, 1.0) is not None
            await counter.upkeep.delete_old(limit=10)
        assert counter.unfinished(upload) == 0
        assert (await client.put(str(parts[2].url), content=video[2 * PART_BYTES :])).status_code == 404
    assert counter.keys == []


async def test_a_refused_file_in_parts_leaves_nothing(counter: Counter) -> None:
    data = b"not a video at all"
    upload = await counter.announce(data, "video/mp4", goes_in_parts=True)
    upload, (part,) = await counter.uploads.receiving.parts(upload)
    async with httpx.AsyncClient() as client:
        assert (await client.put(str(part.url), content=data)).status_code == 200
    with pytest.raises(AppError) as refused:
        await counter.complete(upload)
    assert refused.value.code == "not_a_video"
    assert counter.keys == []
    assert counter.unfinished(upload) == 0
