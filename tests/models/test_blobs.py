"""BlobStore against a real S3 server."""

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from botocore.stub import Stubber
from pydantic import SecretStr

from configs.settings import S3Settings
from models.blobs import BlobStore, check_key
from models.errors import BlobError, BlobNotFound
from tests.s3 import S3Server, free_ports


def test_what_was_put_comes_back_with_its_type_and_metadata(blobs: BlobStore) -> None:
    data = bytes(range(256)) * 40
    blobs.put("t1/picture.png", data, "image/png", {"job": "j1"})
    info = blobs.head("t1/picture.png")
    assert blobs.get("t1/picture.png") == data
    assert (info.size_bytes, info.content_type, info.metadata) == (len(data), "image/png", {"job": "j1"})
    assert abs(info.modified_s - time.time()) < 60


def test_putting_again_replaces(blobs: BlobStore) -> None:
    blobs.put("t1/again", b"old", "text/plain")
    blobs.put("t1/again", b"new", "text/plain")
    assert blobs.get("t1/again") == b"new"


def test_a_missing_object_is_not_found_and_deleting_it_is_fine(blobs: BlobStore) -> None:
    with pytest.raises(BlobNotFound, match="t1/nothing"):
        blobs.get("t1/nothing")
    with pytest.raises(BlobNotFound):
        blobs.head("t1/nothing")
    assert not blobs.exists("t1/nothing")
    blobs.delete("t1/nothing")


def test_list_and_delete_prefix_stay_inside_their_folder(blobs: BlobStore) -> None:
    for key in ("a/1", "a/2", "a/deep/3", "ab/4"):
        blobs.put(key, key.encode(), "text/plain")
    assert [(blob.key, blob.size_bytes) for blob in blobs.list("a/")] == [("a/1", 3), ("a/2", 3), ("a/deep/3", 8)]
    assert blobs.delete_prefix("a/") == 3
    assert list(blobs.list("a/")) == []
    assert blobs.exists("ab/4")


@pytest.mark.parametrize("prefix", ["", "/", "tenants", "a//", "../"])
def test_a_prefix_that_could_reach_too_far_is_refused(blobs: BlobStore, prefix: str) -> None:
    with pytest.raises(ValueError):
        blobs.delete_prefix(prefix)


@pytest.mark.parametrize(
    "key", ["", "/a", "a/", "a//b", "a/../b", "..", "./a", "a b", "a\nb", "a?b", "a#b", "a%2e", "ä", "a\\b", "x" * 1001]
)
def test_keys_that_stores_treat_differently_are_refused_everywhere(blobs: BlobStore, key: str) -> None:
    calls = (
        lambda: blobs.put(key, b"", "text/plain"),
        lambda: blobs.get(key),
        lambda: blobs.head(key),
        lambda: blobs.delete(key),
        lambda: blobs.presign_get(key, 60),
        lambda: blobs.presign_put(key, 60, "text/plain"),
    )
    for call in calls:
        with pytest.raises(ValueError, match="not a usable object key"):
            call()


def test_the_projects_own_keys_are_usable() -> None:
    check_key("tenants/default/generated-images/user_1/job-9f/0.png")
    check_key("tenants/t/loras/u/j/v3/model.safetensors")


def test_a_presigned_url_reads_without_credentials_and_names_the_file(blobs: BlobStore) -> None:
    blobs.put("t2/p.png", b"pixels", "image/png")
    reply = httpx.get(blobs.presign_get("t2/p.png", 60, filename='a "red"/apple \u00e4\r\n.png'))
    assert (reply.status_code, reply.content, reply.headers["content-type"]) == (200, b"pixels", "image/png")
    disposition = reply.headers["content-disposition"]
    assert disposition.startswith('attachment; filename="a _red__apple _')
    assert "filename*=UTF-8''a%20_red__apple%20%C3%A4__.png" in disposition


def test_without_a_signature_or_with_a_changed_one_nothing_is_served(blobs: BlobStore) -> None:
    blobs.put("t2/secret.png", b"pixels", "image/png")
    url = blobs.presign_get("t2/secret.png", 60)
    assert httpx.get(url.split("?")[0]).status_code == 403
    assert httpx.get(url.replace("secret.png", "p.png")).status_code == 403


def test_a_presigned_url_expires(blobs: BlobStore) -> None:
    blobs.put("t2/brief.png", b"pixels", "image/png")
    url = blobs.presign_get("t2/brief.png", 1)
    time.sleep(2.2)
    assert httpx.get(url).status_code == 403


def test_a_presigned_put_accepts_only_its_content_type(blobs: BlobStore) -> None:
    url = blobs.presign_put("t2/upload.mp4", 60, "video/mp4")
    assert httpx.put(url, content=b"x", headers={"content-type": "text/html"}).status_code == 403
    assert httpx.put(url, content=b"movie", headers={"content-type": "video/mp4"}).status_code == 200
    assert blobs.get("t2/upload.mp4") == b"movie"


@pytest.mark.parametrize("expiry_s", [0, -1, 604_801])
def test_an_expiry_that_signatures_do_not_allow_is_refused(blobs: BlobStore, expiry_s: int) -> None:
    with pytest.raises(ValueError, match="expiry_s"):
        blobs.presign_get("t2/p.png", expiry_s)


def test_urls_for_clients_carry_the_public_name(s3_server: S3Server) -> None:
    store = s3_server.store(public_endpoint="https://pictures.example:8443")
    url = urlsplit(store.presign_get("t/p.png", 60))
    assert (url.scheme, url.netloc, url.path) == ("https", "pictures.example:8443", "/pictures/t/p.png")
    assert parse_qs(url.query)["X-Amz-Algorithm"] == ["AWS4-HMAC-SHA256"]


def test_ensure_bucket_may_run_in_many_starting_processes(s3_server: S3Server) -> None:
    store = s3_server.store("another-bucket")
    with pytest.raises(BlobError):
        store.check()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: store.ensure_bucket(), range(4)))
    store.check()


def test_temp_expires_by_a_rule_of_the_bucket_beside_the_owners_own_rules(s3_server: S3Server) -> None:
    store = s3_server.store("ruled-bucket")
    theirs = {"ID": "theirs", "Status": "Enabled", "Filter": {"Prefix": "logs/"}, "Expiration": {"Days": 30}}
    store.ensure_bucket()
    assert rules_of(store) == {"darkroom-temp": ("temp/", 3)}
    store._client.put_bucket_lifecycle_configuration(Bucket=store.bucket, LifecycleConfiguration={"Rules": [theirs]})
    for _ in range(2):
        store.ensure_bucket()
        assert rules_of(store) == {"theirs": ("logs/", 30), "darkroom-temp": ("temp/", 3)}


def rules_of(store: BlobStore) -> dict[str, tuple[str, int]]:
    rules = store._client.get_bucket_lifecycle_configuration(Bucket=store.bucket)["Rules"]
    return {rule["ID"]: (rule["Filter"]["Prefix"], rule["Expiration"]["Days"]) for rule in rules}


@pytest.mark.parametrize("refused", ["get", "put"])
@pytest.mark.parametrize(
    ("code", "is_fatal"),
    [("NotImplemented", False), ("BucketAlreadyExists", False), ("AccessDenied", False), ("InternalError", True)],
)
def test_a_store_without_rules_is_used_without_them(code: str, is_fatal: bool, refused: str) -> None:
    store = BlobStore(endpoint="http://127.0.0.1:9", bucket="plain", access_key="a", secret_key="b")
    with Stubber(store._client) as answers:
        answers.add_response("head_bucket", {})
        if refused == "put":
            answers.add_client_error("get_bucket_lifecycle_configuration", "NoSuchLifecycleConfiguration")
        answers.add_client_error(f"{refused}_bucket_lifecycle_configuration", code)
        with pytest.raises(BlobError) if is_fatal else nullcontext():
            store.ensure_bucket()
        answers.assert_no_pending_responses()


def test_many_keys_are_deleted_at_once_and_none_is_fine(blobs: BlobStore) -> None:
    for number in range(3):
        blobs.put(f"t5/{number}", b"", "text/plain")
    assert blobs.delete_many(["t5/0", "t5/2", "t5/none"]) == 3
    assert blobs.delete_many([]) == 0
    assert [blob.key for blob in blobs.list("t5/")] == ["t5/1"]
    with pytest.raises(ValueError, match="not a usable object key"):
        blobs.delete_many(["t5/1", "../t5"])


def test_many_threads_share_one_store(blobs: BlobStore) -> None:
    def round_trip(number: int) -> bool:
        data = str(number).encode() * 500
        blobs.put(f"t3/{number}", data, "text/plain")
        return blobs.get(f"t3/{number}") == data

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(round_trip, range(40)))
    assert blobs.delete_prefix("t3/") == 40


def test_a_wrong_secret_is_said_without_showing_it(s3_server: S3Server) -> None:
    store = s3_server.store(secret_key="wrong-secret-value")
    with pytest.raises(BlobError, match=r"(?i)secret key|credentials") as caught:
        store.put("t/p", b"", "text/plain")
    assert "wrong-secret-value" not in str(caught.value)


def test_a_server_that_is_away_is_a_blob_error_in_bounded_time() -> None:
    port = free_ports(1)[0]
    store = BlobStore(endpoint=f"http://127.0.0.1:{port}", bucket="none", access_key="a", secret_key="b", timeout_s=1.0)
    began_s = time.monotonic()
    with pytest.raises(BlobError, match="no answer"):
        store.check()
    assert time.monotonic() - began_s < 15


def test_a_store_is_made_from_settings_once_they_are_complete(s3_server: S3Server) -> None:
    settings = S3Settings(
        endpoint=s3_server.endpoint,
        bucket="pictures",
        access_key=s3_server.access_key,
        secret_key=SecretStr(s3_server.secret_key),
    )
    BlobStore.from_settings(settings).check()
    with pytest.raises(ValueError, match=r"s3\.endpoint"):
        BlobStore.from_settings(S3Settings())


@pytest.mark.parametrize("num_bytes", [0, 5, 20_000_000])  # the last goes in several parts
def test_files_of_any_size_go_there_and_back_and_are_copied(blobs: BlobStore, tmp_path: Path, num_bytes: int) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(bytes(range(256)) * (num_bytes // 256) + b"x" * (num_bytes % 256))
    blobs.put_file("t4/file", source, "application/octet-stream")
    blobs.copy("t4/file", "t4/copy")
    blobs.delete("t4/file")
    blobs.get_file("t4/copy", target)
    assert target.read_bytes() == source.read_bytes()
    assert blobs.head("t4/copy").content_type == "application/octet-stream"


def test_a_missing_object_cannot_be_copied_or_written_to_a_file(blobs: BlobStore, tmp_path: Path) -> None:
    with pytest.raises(BlobNotFound, match="t4/none"):
        blobs.get_file("t4/none", tmp_path / "target")
    with pytest.raises(BlobNotFound, match="t4/none"):
        blobs.copy("t4/none", "t4/other")
