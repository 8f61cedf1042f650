"""A poisoned request is its own trouble: the others in its batches arrive as if it had not been there."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from safetensors.torch import load_file, save_file

from configs.settings import EngineSettings
from models.errors import BlobError, GenerationError
from pipelines.request import GenerationRequest, LoraChoice, StoredFile
from tests.models.tiny_loras import make_lora
from tests.pipelines.bench import Bench, assert_equal_pictures
from tests.pipelines.conftest import Promise
from tests.pipelines.mixed import Follower, all_at_once, same_sized

SIZE = {"width_px": 64, "height_px": 64}
GONE = StoredFile(key="test/gone", sha256="0" * 64)
MAX_ROWS = 4
POISON = "a poisoned prompt"

Forward = Callable[..., Any]


@pytest.fixture
def fresh(sd: Bench) -> Iterator[Bench]:
    """An engine that a test may spoil."""
    bench = sd.start()
    yield bench
    bench.engine.close()


def check_that_seven_arrive(bench: Bench, promise: Promise, poisoned: GenerationRequest) -> GenerationError:
    """Asks for eight at once, the poisoned one in the middle; what became of that one."""
    good = same_sized(promise.requests)
    names = [*list(good)[:4], "poisoned", *list(good)[4:]]
    outcomes = all_at_once(bench, {name: good.get(name, poisoned) for name in names})
    for name in good:
        outcome = outcomes[name]
        assert isinstance(outcome, list), f"{name}: {outcome}"
        assert_equal_pictures(outcome, promise.plain[name], name)
    failure = outcomes["poisoned"]
    assert isinstance(failure, GenerationError)
    assert bench.engine.is_alive
    return failure


def spoilt_lora(bench: Bench, name: str, spoil: Callable[[torch.Tensor], torch.Tensor]) -> LoraChoice:
    path = bench.shelf.folder / f"{name}.safetensors"
    make_lora(path, bench.folder, bench.family, seed=9)
    save_file({key: spoil(tensor) for key, tensor in load_file(path).items()}, path)
    return LoraChoice(name, 1.0, bench.shelf.add(path.read_bytes()))


def foreign_lora(benches: dict[str, Bench]) -> LoraChoice:
    path = make_lora(benches["sd"].shelf.folder / "foreign.safetensors", benches["flux"].folder, "flux")
    return LoraChoice("foreign", 1.0, benches["sd"].shelf.add(path.read_bytes()))


BAD_REQUESTS: dict[str, tuple[Callable[[dict[str, Bench]], dict[str, object]], str]] = {
    "an adapter of NaN": (lambda b: {"loras": (spoilt_lora(b["sd"], "nan", lambda t: t * torch.nan),)}, "bad_adapter"),
    "an adapter that overflows": (
        lambda b: {"loras": (spoilt_lora(b["sd"], "huge", lambda t: t * 1e25),)},
        "not_finite",
    ),
    "an adapter of another family": (lambda b: {"loras": (foreign_lora(b),)}, "bad_adapter"),
    "a deleted adapter": (lambda b: {"loras": (LoraChoice("gone", 1.0, GONE),)}, "adapter_not_found"),
    "an adapter that nobody looked up": (lambda b: {"loras": (LoraChoice("unknown"),)}, "bad_adapter"),
    "a missing picture": (lambda b: {"image": GONE}, "bad_image"),
    "a damaged picture": (lambda b: {"image": b["sd"].shelf.add(b"\x89PNG\r\n\x1a\nnot at all")}, "bad_image"),
    "a mask that hides nothing": (lambda b: {"image": (it := b["sd"].picture()), "mask": it}, "bad_image"),
    "an unknown scheduler": (lambda b: {"scheduler": "heun"}, "generation_failed"),
    "no step left": (lambda b: {"image": b["sd"].picture(), "strength": 0.05}, "generation_failed"),
}


@pytest.mark.parametrize("what", BAD_REQUESTS)
def test_a_bad_request_fails_alone_and_says_why(
    benches: dict[str, Bench], sd: Bench, sd_promise: Promise, what: str
) -> None:
    changes, code = BAD_REQUESTS[what]
    failure = check_that_seven_arrive(sd, sd_promise, sd.request(**SIZE, num_inference_steps=8, **changes(benches)))
    assert failure.code == code


def test_a_store_that_does_not_answer_is_another_matter_than_a_file_that_is_gone(
    fresh: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path) -> bytes:
        raise BlobError("no answer")

    picture = fresh.picture()
    monkeypatch.setattr(Path, "read_bytes", refuse)
    failure = Follower(fresh, fresh.request(image=picture)).outcome()
    assert isinstance(failure, GenerationError)
    assert failure.code == "source_unavailable"


def test_a_scheduler_that_raises_fails_its_own_request(
    sd: Bench, sd_promise: Promise, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = diffusers.LCMScheduler.step

    def break_late(self: Any, *args: Any, **options: Any) -> Any:
        if self.step_index is not None and self.step_index >= 3:
            raise IndexError("the table of this scheduler is too short")
        return step(self, *args, **options)

    monkeypatch.setattr(diffusers.LCMScheduler, "step", break_late)
    poisoned = sd.request(**SIZE, num_inference_steps=8, scheduler="lcm")
    assert "too short" in str(check_that_seven_arrive(sd, sd_promise, poisoned))


def test_a_row_that_breaks_the_forward_pass_fails_alone(
    sd: Bench, sd_promise: Promise, monkeypatch: pytest.MonkeyPatch
) -> None:
    with torch.inference_mode():
        poison_LD = sd.loaded.pipeline.encode_prompt([POISON], sd.loaded.device, 1, False)[0][0]
    forward: Forward = sd.loaded.pipeline.unet.forward

    def break_on_poison(sample: torch.Tensor, *args: Any, encoder_hidden_states: torch.Tensor, **options: Any) -> Any:
        if any(torch.allclose(row_LD, poison_LD, atol=1e-4) for row_LD in encoder_hidden_states):
            raise RuntimeError("a kernel refused")
        return forward(sample, *args, encoder_hidden_states=encoder_hidden_states, **options)

    monkeypatch.setattr(sd.loaded.pipeline.unet, "forward", break_on_poison)
    failure = check_that_seven_arrive(sd, sd_promise, sd.request(**SIZE, prompt=POISON, num_inference_steps=8))
    assert "a kernel refused" in str(failure)


def test_a_picture_that_cannot_be_decoded_fails_alone(
    sd: Bench, sd_promise: Promise, monkeypatch: pytest.MonkeyPatch
) -> None:
    poisoned = sd.request(**SIZE, prompt=POISON, num_inference_steps=4)
    decode: Forward = sd.loaded.pipeline.vae.decode
    seen: list[torch.Tensor] = []

    def remember(latents: torch.Tensor, *args: Any, **options: Any) -> Any:
        seen.append(latents[0].clone())
        return decode(latents, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(sd.loaded.pipeline.vae, "decode", remember)
        sd.pixels(poisoned)

    def refuse_that_one(latents: torch.Tensor, *args: Any, **options: Any) -> Any:
        if any(torch.allclose(one, seen[-1], atol=1e-2) for one in latents):
            raise RuntimeError("a decoder refused")
        return decode(latents, *args, **options)

    monkeypatch.setattr(sd.loaded.pipeline.vae, "decode", refuse_that_one)
    assert "a decoder refused" in str(check_that_seven_arrive(sd, sd_promise, poisoned))


def test_a_listener_that_raises_hurts_nobody_else(sd: Bench, sd_promise: Promise) -> None:
    def complain(event: object) -> None:
        raise ValueError(f"cannot handle {event}")

    good = same_sized(sd_promise.requests)
    sd.engine.submit(sd.request(**SIZE, num_inference_steps=8), complain)
    for name, outcome in all_at_once(sd, good).items():
        assert isinstance(outcome, list)
        assert_equal_pictures(outcome, sd_promise.plain[name], name)
    assert sd.engine.is_alive


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA"), RuntimeError("[enforce fail] can't allocate memory")]
)
def test_a_batch_that_does_not_fit_is_halved_and_the_budget_learns(
    fresh: Bench, sd_promise: Promise, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    forward: Forward = fresh.loaded.pipeline.unet.forward

    def run_out(sample: torch.Tensor, *args: Any, **options: Any) -> Any:
        if len(sample) > MAX_ROWS:
            raise error
        return forward(sample, *args, **options)

    monkeypatch.setattr(fresh.loaded.pipeline.unet, "forward", run_out)
    eight = {str(seed): fresh.request(**SIZE, seed=seed, num_inference_steps=12) for seed in range(8)}
    first = all_at_once(fresh, eight)
    assert fresh.meter.splits, "everything fitted: this proves nothing"
    splits, fresh.meter.splits[:] = list(fresh.meter.splits), []
    fresh.meter.batches.clear()
    second = all_at_once(fresh, eight)
    assert fresh.meter.splits == [], f"it has learned nothing from {splits}"
    assert max(num_rows for num_rows, _ in fresh.meter.batches) <= MAX_ROWS
    monkeypatch.undo()
    for name, request in eight.items():
        for outcome in (first[name], second[name]):
            assert isinstance(outcome, list)
            assert_equal_pictures(outcome, fresh.pixels(request), name)


def test_one_picture_too_large_for_the_memory_says_so(fresh: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def run_out(*args: Any, **options: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(fresh.loaded.pipeline.unet, "forward", run_out)
        failure = Follower(fresh, fresh.request()).outcome()
    assert isinstance(failure, GenerationError)
    assert failure.code == "out_of_memory"
    assert isinstance(Follower(fresh, fresh.request()).outcome(), list), "the next one is not to suffer for it"


def test_room_is_left_after_every_kind_of_failure(sd: Bench) -> None:
    """As many failures as there is room for pictures, and then some that must still be made."""
    bench = sd.start(EngineSettings(max_active=2, measure_budget_s=0.0))
    try:
        for changes in ({"scheduler": "heun"}, {"image": GONE}, {"loras": (LoraChoice("gone", 1.0, GONE),)}):
            bad = bench.request(num_images=2, **changes)
            failures = [Follower(bench, bad) for _ in range(3)]
            assert all(isinstance(it.outcome(), GenerationError) for it in failures)
        assert isinstance(Follower(bench, replace(bench.request(), num_images=4)).outcome(), list)
    finally:
        bench.engine.close()
