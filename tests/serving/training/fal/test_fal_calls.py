"""The HTTP of fal.ai: what its answers mean, what is tried again, where the key and the bytes may go."""

from typing import Any

import pytest

from models.errors import AdapterError
from serving.backends.training import TrainingError
from serving.errors import Unavailable
from tests.fake_fal import KEY, FakeFal, cut_off, error, model_error
from tests.models.lora_bytes import lora_bytes
from tests.serving.training.fal.attempts import Attempts


async def test_the_key_goes_to_the_queue_and_never_to_the_file(fal: FakeFal, attempts: Attempts) -> None:
    await attempts.train()
    assert fal.keys.pop("file") == {None}
    assert set().union(*fal.keys.values()) == {f"Key {KEY}"}


@pytest.mark.parametrize(
    ("where", "answer", "code", "words"),
    [
        ("submit", error(401, {"detail": "no such key"}), "provider_denied", "let this server in: no such key"),
        ("submit", model_error("value_error", "too few images"), "provider_failed", "too few images"),
        ("submit", model_error("content_policy_violation", "not this"), "moderation_blocked", "not this"),
        ("submit", error(404, {"detail": "no such app"}), "provider_refused", "no such app"),
        ("result", model_error("content_policy_violation", "not this"), "moderation_blocked", "not this"),
        ("result", model_error("value_error", "out of range"), "provider_failed", "out of range"),
        ("result", model_error("internal", "it broke", 500), "provider_failed", "it broke"),
        ("result", error(200, {"images": []}), "provider_bad_reply", "no diffusers_lora_file"),
        ("status", error(200, {"status": "DREAMING"}), "provider_bad_reply", "DREAMING"),
    ],
)
async def test_what_is_refused_fails_with_a_code_and_is_not_asked_again(
    where: str, answer: Any, code: str, words: str, fal: FakeFal, attempts: Attempts
) -> None:
    fal.troubles[where].append(answer)
    with pytest.raises(TrainingError, match=words) as caught:
        await attempts.train()
    assert (caught.value.code, fal.calls.count(where)) == (code, 1)


@pytest.mark.parametrize(
    ("said", "code"),
    [
        ({"error": "CUDA error", "error_type": "internal"}, "provider_failed"),
        ({"error": "content_policy_violation", "error_type": None}, "moderation_blocked"),
    ],
)
async def test_completed_does_not_mean_that_it_went_well(
    said: dict[str, Any], code: str, fal: FakeFal, attempts: Attempts
) -> None:
    fal.completed = said
    with pytest.raises(TrainingError) as caught:
        await attempts.train()
    assert caught.value.code == code
    assert "file" not in fal.calls


async def test_what_their_machines_did_not_run_is_free_and_asked_for_anew(fal: FakeFal, attempts: Attempts) -> None:
    fal.completed = {"error": "Runner went away", "error_type": "runner_disconnected"}
    with pytest.raises(Unavailable, match="Runner went away"):
        await attempts.train()
    assert attempts.kept == {}
    fal.completed = {}
    assert (await attempts.train()).request_id == "req-1"


async def test_a_request_that_is_not_known_at_once_is_looked_for_again(fal: FakeFal, attempts: Attempts) -> None:
    fal.troubles["status"].append(error(404, {"status": "NOT_FOUND"}))
    assert (await attempts.train()).request_id == "req-0"


async def test_a_file_that_is_too_large_is_not_taken_whole(fal: FakeFal, attempts: Attempts) -> None:
    attempts.max_file_bytes = len(fal.file) - 1
    with pytest.raises(TrainingError, match="larger than") as caught:
        await attempts.train()
    assert caught.value.code == "too_large"


@pytest.mark.parametrize("trouble", [cut_off, error(403, {"message": "expired"}), error(500, {})])
async def test_a_file_that_does_not_come_is_asked_for_anew(trouble: Any, fal: FakeFal, attempts: Attempts) -> None:
    fal.troubles["file"].append(trouble)
    await attempts.train()
    assert attempts.target.read_bytes() == fal.file
    assert fal.calls.count("result") == 2


@pytest.mark.parametrize("file", [b"", b"<html>not here</html>", lora_bytes()[:-1]])
async def test_a_file_that_is_no_adapter_is_refused(file: bytes, fal: FakeFal, attempts: Attempts) -> None:
    fal.file = file
    with pytest.raises(AdapterError):
        await attempts.train()


@pytest.mark.parametrize("url", ["http://elsewhere.test/x", "file:///etc/passwd", "ftp://elsewhere.test/x"])
async def test_a_file_at_an_unsafe_address_is_not_fetched(url: str, fal: FakeFal, attempts: Attempts) -> None:
    fal.file_url = url
    with pytest.raises(TrainingError, match="cannot be fetched safely"):
        await attempts.train()


async def test_the_key_is_told_to_no_other_host(fal: FakeFal, attempts: Attempts) -> None:
    urls = {
        "status_url": "https://elsewhere.test/s",
        "response_url": f"{fal.url}/queue/0",
        "cancel_url": f"{fal.url}/c",
    }
    fal.troubles["submit"].append(error(200, {"request_id": "req-0"} | urls))
    with pytest.raises(TrainingError, match="not its own: elsewhere.test"):
        await attempts.train()
