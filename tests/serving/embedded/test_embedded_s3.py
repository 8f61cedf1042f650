"""The embedded S3 server as a real process: signed requests only, data kept over a kill and a change of ports."""

import subprocess
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import httpx
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from serving.embedded import s3
from serving.embedded.ports import keep_ports

BUCKET = "darkroom"


class S3Process:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.credentials = s3.read_credentials(s3.new_credentials())
        self.ports: dict[str, int] = {}
        self.process: subprocess.Popen[bytes] | None = None
        (folder / "data" / "master").mkdir(parents=True)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.ports['s3.s3']}"

    def start(self) -> None:
        ports_path = self.folder / "ports.json"
        self.ports = keep_ports(ports_path, s3.PORT_NAMES, twins={"s3.admin": s3.ADMIN_GRPC_OFFSET})
        weed = str(Path(sysconfig.get_path("scripts")) / "weed")
        command = s3.command(weed, data_dir=self.folder / "data", run_dir=self.folder, bucket=BUCKET, ports=self.ports)
        with (self.folder / "s3.log").open("ab") as log:
            self.process = subprocess.Popen(command, env=s3.environment(self.credentials), stdout=log, stderr=log)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            assert self.process.poll() is None, (self.folder / "s3.log").read_text()[-2000:]
            try:
                if httpx.get(f"{self.endpoint}/healthz").is_success:
                    time.sleep(s3.SETTLE_S)
                    return
            except httpx.HTTPError:
                time.sleep(0.1)
        raise AssertionError("the server did not come up")

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def client(self, secret_key: str | None = None) -> Any:
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=self.credentials.access_key,
            aws_secret_access_key=secret_key or self.credentials.secret_key,
            region_name="us-east-1",
            config=Config(signature_version="s3v4", s3={"addressing_style": "path"}, retries={"max_attempts": 5}),
        )


@pytest.fixture
def server(tmp_path: Path) -> Iterator[S3Process]:
    process = S3Process(tmp_path)
    process.start()
    yield process
    if process.process is not None and process.process.poll() is None:
        process.kill()


def test_objects_outlive_kill_nine_and_new_ports(server: S3Process) -> None:
    picture = bytes(range(256)) * 40_000  # 10 MB: several chunks
    server.client().put_object(Bucket=BUCKET, Key="temp/job/0.png", Body=picture, ContentType="image/png")
    server.kill()
    (server.folder / "ports.json").unlink()
    server.start()
    found = server.client().get_object(Bucket=BUCKET, Key="temp/job/0.png")
    assert found["Body"].read() == picture
    assert found["ContentType"] == "image/png"
    server.client().put_object(Bucket=BUCKET, Key="temp/job/1.png", Body=b"writable at once")


def test_pre_signed_url_outlives_a_restart(server: S3Process) -> None:
    server.client().put_object(Bucket=BUCKET, Key="a/b", Body=b"picture")
    url = server.client().generate_presigned_url("get_object", Params={"Bucket": BUCKET, "Key": "a/b"}, ExpiresIn=600)
    server.kill()
    server.start()
    deadline = time.monotonic() + 20
    # Just after a restart it may answer 5xx for some seconds, which clients try again; anything else is final.
    while (reply := httpx.get(url)).is_server_error and time.monotonic() < deadline:
        time.sleep(0.5)
    assert (reply.status_code, reply.content) == (200, b"picture")


def test_nothing_is_readable_without_a_signature(server: S3Process) -> None:
    server.client().put_object(Bucket=BUCKET, Key="a/b", Body=b"private")
    assert httpx.get(f"{server.endpoint}/{BUCKET}/a/b").status_code == 403
    with pytest.raises(ClientError):
        server.client(secret_key="wrong").get_object(Bucket=BUCKET, Key="a/b")
    # The filer speaks HTTP without asking who calls; it must not hand objects out.
    filer = httpx.get(f"http://127.0.0.1:{server.ports['s3.filer']}/buckets/{BUCKET}/a/b")
    assert filer.status_code == 404 and b"private" not in filer.content
