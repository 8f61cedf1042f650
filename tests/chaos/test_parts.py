"""The parts of the suite that kills everything: what they write down, cut off, see and plan."""

import io
import random
import socket
import threading
from collections.abc import Iterator

import httpx
import numpy as np
import pytest
from PIL import Image

from pipelines.request import GenerationRequest
from serving.jobs.documents import job_to_document
from serving.jobs.job import new_job
from tests.chaos.conftest import Part

TIMEOUT_S = 5.0


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def test_the_journal_outlives_its_writer_and_a_torn_last_line(part: Part, journal_path) -> None:
    journal = part("journal").Journal(journal_path)
    journal.write("accepted", order="a", job="job_1")
    journal.round = 2
    journal.write("refused", order="b", status=503)
    with journal_path.open("ab") as file:
        file.write(b'{"at_s": 1, "rou')  # the harness was killed here
    read = part("journal").read_journal
    assert [(entry.order, entry.job) for entry in read(journal_path)] == [("a", "job_1"), ("b", "")]
    assert [entry.detail for entry in read(journal_path, round_=2)] == [{"status": 503}]


def test_pixels_may_differ_by_rounding_and_by_no_more(part: Part) -> None:
    why_wrong = part("pictures").why_wrong
    expected = np.full((64, 96, 3), 100, np.int16)
    assert why_wrong(png(expected), expected) is None
    assert why_wrong(png(expected + 1), expected) is None
    spoilt = expected.copy()
    spoilt[5, 7, 1] += 2
    assert "2 of 255" in why_wrong(png(spoilt), expected)
    assert "measures" in why_wrong(png(expected[:32]), expected)
    assert "no picture" in why_wrong(b"<Error/>", expected)


def test_the_checks_read_a_job_as_the_server_stores_it(part: Part) -> None:
    request = GenerationRequest("emoji-3d", "an apple", "", 64, 64, 1, 7, 2, 1.0)
    job = new_job(
        request,
        tenant="acme",
        kind="image",
        priority="normal",
        metadata={"order": "r001-007"},
        user=None,
        request_id="",
        expires_in_s=60.0,
    )
    found = part("evidence").found_job(job_to_document(job))
    assert (found.id, found.tenant, found.order, found.status) == (job.id, "acme", "r001-007", "queued")
    assert (found.fence, found.attempts, found.owner, found.picture_keys) == (0, 0, None, ())


def test_the_chronicle_notes_what_must_not_be(part: Part) -> None:
    chronicle = part("watch").Chronicle()
    for fence, status in ((0, "queued"), (1, "running"), (2, "queued"), (3, "running"), (3, "succeeded")):
        chronicle.note({"_id": "job_1", "fence": fence, "status": status})
    assert chronicle.backward == []
    chronicle.note({"_id": "job_1", "fence": 2, "status": "running"})
    assert len(chronicle.backward) == 2


@pytest.fixture
def upstream() -> Iterator[int]:
    """Answers every request with 200."""

    def serve() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            with connection:
                connection.recv(65_536)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=serve, daemon=True).start()
        yield server.getsockname()[1]


def test_the_proxy_passes_refuses_cuts_and_hangs(part: Part, upstream: int) -> None:
    proxy = part("proxy").FaultProxy(("127.0.0.1", upstream))
    proxy.start()
    url = f"http://127.0.0.1:{proxy.port}/"
    try:
        assert httpx.get(url, timeout=TIMEOUT_S).text == "ok"
        proxy.set_mode("refuse")
        assert httpx.get(url, timeout=TIMEOUT_S).status_code == 503
        proxy.set_mode("cut")
        with pytest.raises(httpx.TransportError):
            httpx.get(url, timeout=TIMEOUT_S)
        proxy.set_mode("hang")
        with pytest.raises(httpx.TimeoutException):
            httpx.get(url, timeout=0.3)
        late = threading.Timer(0.3, proxy.set_mode, ("pass",))
        late.start()
        assert httpx.get(url, timeout=TIMEOUT_S).text == "ok"  # held back, then let go
    finally:
        proxy.stop()


def test_webhooks_are_written_down_before_they_are_answered_and_some_are_refused_once(part: Part, journal_path) -> None:
    journal = part("journal").Journal(journal_path)
    receiver = part("hooks").HookReceiver(journal, refuse_one_in=1)
    try:
        headers = {"webhook-id": "evt_1", "webhook-timestamp": "1", "webhook-signature": "v1,x"}
        first, second = (
            httpx.post(receiver.url("acme"), content=b'{"type": "job.started"}', headers=headers, timeout=TIMEOUT_S)
            for _ in range(2)
        )
    finally:
        receiver.stop()
    assert (first.status_code, second.status_code) == (500, 204)
    entries = list(part("journal").read_journal(journal_path))
    assert [entry.detail["status"] for entry in entries] == [500, 204]
    assert entries[0].detail["headers"] == headers
    assert entries[0].detail["tenant"] == "acme"


@pytest.mark.parametrize(
    ("status", "code", "is_keyed", "again"),
    [
        (429, "queue_full", False, True),
        (503, "draining", True, True),
        (503, "database_unavailable", False, False),  # perhaps it was stored
        (500, None, True, True),  # Ray's proxy speaks for a replica that died
        (500, "workers_lost", True, False),
        (404, None, True, True),
        (409, "idempotency_key_reused", True, False),
    ],
)
def test_a_client_repeats_only_what_is_safe(
    part: Part, status: int, code: str | None, is_keyed: bool, again: bool
) -> None:
    assert part("load").may_come_again(status, code, is_keyed=is_keyed) is again


def test_every_fault_comes_once_before_any_comes_again_and_all_orders_are_spread(part: Part) -> None:
    faults = part("faults").all_faults(lease_s=4.0)
    plans = part("rounds").plan_rounds(
        random.Random(3), faults, num_rounds=2 * len(faults), num_orders=1_001, pair_chance=0.5
    )
    firsts = [plan.faults[0] for plan in plans]
    assert set(firsts[: len(faults)]) == set(faults) == set(firsts[len(faults) :])
    assert sum(plan.num_orders for plan in plans) == 1_001
    pairs = [plan.faults for plan in plans if len(plan.faults) == 2]
    assert pairs
    assert all(faults[name].pairs for pair in pairs for name in pair)


def test_service_is_normal_from_the_first_picture_after_the_last_failure(part: Part) -> None:
    attempt, served = part("probe").Attempt, part("probe").served_without_gap
    waiting, failed = attempt(), attempt(5.0, is_served=False)
    early, later, last = (attempt(ended_s, is_served=True) for ended_s in (2.0, 9.0, 8.0))
    assert served([]) is None
    assert served([early, waiting]) == 2.0
    assert served([early, failed]) is None
    assert served([early, failed, waiting, later, last]) == 8.0


def test_the_same_seed_gives_the_same_orders(part: Part) -> None:
    def draw(seed: int) -> list:
        return part("load").draw_orders(
            random.Random(seed), prefix="r", count=50, tenants=("a", "b"), num_pictures=9, window_s=5.0
        )

    assert draw(1) == draw(1) != draw(2)
    assert {order.way for order in draw(1)} <= set(part("load").WAYS)


def test_a_disk_is_filled_to_its_last_byte(part: Part, tmp_path) -> None:
    server = part("server").DarkroomUnderTest(tmp_path / "home", None)
    server.prepare()
    try:
        if (reason := part("faults").FillDisk().why_not(server)) is not None:
            pytest.skip(reason)
        fault = part("faults").FillDisk()
        fault.inject(server, random.Random(0))
        with pytest.raises(OSError, match="No space left"):
            (server.state_dir / "more").write_bytes(b"x" * 8_192)
        fault.heal(server)
        (server.state_dir / "more").write_bytes(b"x" * 8_192)
    finally:
        server.clean_up()
    assert not (tmp_path / "home" / "state" / "more").exists(), "the disk was to go with its server"
