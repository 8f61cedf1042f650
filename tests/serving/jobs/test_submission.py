"""Submission: what a wish may hold, model by model; defaults filled in; full queues; nothing stored when refused."""

import math
from typing import Any

import pytest

from models.errors import UnknownModel
from pipelines.request import GenerationRequest, LoraChoice
from pipelines.schedulers import SCHEDULERS
from serving.errors import AppError, BadInput, Forbidden, NotFound, TooManyRequests
from serving.jobs.wish import ImageWish, resolve_image
from serving.tenancy.auth import Caller
from tests.serving.conftest import OpenHouse
from tests.serving.house import House, served_catalog

CATALOG = served_catalog()
EMOJI, FLUX = CATALOG["emoji-3d"], CATALOG["flux-schnell"]
ALICE = Caller(tenant="alice", role="member", key_id="key_1")
ADMIN = Caller(tenant="alice", role="admin", key_id="key_2")


def resolve(prompt: str = "a red apple", **wish: Any) -> GenerationRequest:
    return resolve_image(
        ImageWish(prompt=prompt, **wish), CATALOG, default_model="emoji-3d", max_prompt_chars=4_000, adapters={}
    )


def refusal(prompt: str = "a red apple", **wish: Any) -> AppError:
    with pytest.raises(AppError) as caught:
        resolve(prompt, **wish)
    return caught.value


def test_a_silent_wish_gets_the_models_own_defaults() -> None:
    request = resolve()
    assert (request.model_id, request.width_px, request.height_px) == ("emoji-3d", 128, 128)
    assert request.num_inference_steps == EMOJI.defaults.num_inference_steps
    assert request.guidance_scale == EMOJI.defaults.guidance_scale
    assert (request.num_images, request.negative_prompt, request.scheduler, request.loras) == (1, "", None, ())
    assert (request.output_format, request.output_compression) == ("png", 100)


def test_a_seed_is_drawn_when_none_is_given_and_kept_when_it_is() -> None:
    assert len({resolve().seed for _ in range(20)}) > 15
    assert all(0 <= resolve().seed < 2**32 for _ in range(20))
    assert resolve(seed=0).seed == 0


@pytest.mark.parametrize("length", [1, 4_000])
def test_prompts_up_to_the_limit_are_taken_as_they_are(length: int) -> None:
    assert resolve("x" * length).prompt == "x" * length


@pytest.mark.parametrize("prompt", ["a\nb", "a\tb", "a\r\nb", "ünïcödé ☀ 🍎", "a\u200db", "(red:1.2) <b>'\"\\"])
def test_ordinary_text_is_not_refused(prompt: str) -> None:
    assert resolve(prompt).prompt == prompt


@pytest.mark.parametrize(
    ("prompt", "told"),
    [
        ("", "must not be empty"),
        (" \t\n\u3000", "must not be empty"),
        ("x" * 4_001, "4001 characters; at most 4000"),
        ("x" * 40_000, "40000 characters; at most 4000"),
        ("a\x00b", "U+0000"),
        ("a\x1bb", "U+001B"),
        ("a\x7fb", "U+007F"),
        ("a\x85b", "U+0085"),
        ("a\ud800b", "U+D800"),
    ],
)
def test_prompts_that_are_refused(prompt: str, told: str) -> None:
    error = refusal(prompt)
    assert isinstance(error, BadInput)
    assert error.param == "prompt"
    assert told in error.message
    assert len(error.message) < 200


def test_a_negative_prompt_has_the_same_limits_where_the_model_takes_one() -> None:
    assert resolve(negative_prompt="blurry").negative_prompt == "blurry"
    assert resolve(negative_prompt="").negative_prompt == EMOJI.defaults.negative_prompt
    assert refusal(negative_prompt="x" * 4_001).param == "negative_prompt"
    assert refusal(negative_prompt="a\x00").param == "negative_prompt"
    assert refusal(negative_prompt="blurry", model="flux-schnell").param == "negative_prompt"
    assert resolve(negative_prompt="", model="flux-schnell").negative_prompt == ""


def test_an_unknown_model_says_which_exist() -> None:
    with pytest.raises(UnknownModel, match="Available: emoji-3d, flux-schnell"):
        resolve(model="dall-e-3")
    with pytest.raises(UnknownModel):
        resolve(model="")


@pytest.mark.parametrize("n", [1, 10])
def test_n_within_the_limits(n: int) -> None:
    assert resolve(n=n).num_images == n


@pytest.mark.parametrize("n", [0, -1, 11, 10**30])
def test_n_outside_the_limits(n: int) -> None:
    error = refusal(n=n)
    assert (error.status, error.param) == (400, "n")
    assert "from 1 to 10" in error.message


@pytest.mark.parametrize(
    ("size", "pair"), [("auto", (128, 128)), ("64x64", (64, 64)), ("256x64", (256, 64)), ("72x200", (72, 200))]
)
def test_sizes_that_the_model_makes(size: str, pair: tuple[int, int]) -> None:
    request = resolve(size=size)
    assert (request.width_px, request.height_px) == pair


@pytest.mark.parametrize(
    "size",
    ["0", "7", "100000", "axb", "0x0", "65x64", "64x65", "56x64", "264x64", "1024x1024", "64X64", "64x64 ", " 64x64",
     "-64x64", "64x64x64", "64", "x", "", "AUTO", "٦٤x٦٤", "64.0x64", "1e2x64", "9" * 100 + "x64", "64x64\n"],
)  # fmt: skip
def test_sizes_that_are_refused_say_what_is_allowed(size: str) -> None:
    error = refusal(size=size)
    assert (error.status, error.param) == (400, "size")
    assert "from 64 to 256 px in multiples of 8" in error.message
    assert "128x128" in error.message


def test_sides_may_be_allowed_and_their_product_not() -> None:
    limits = FLUX.limits
    size = f"{limits.max_side_px}x{limits.max_side_px}"
    assert limits.max_side_px**2 > limits.max_pixels, "the catalogue changed: take another model here"
    assert "too many pixels" in refusal(model="flux-schnell", size=size).message


@pytest.mark.parametrize("steps", [1, 100])
def test_steps_within_the_limits(steps: int) -> None:
    assert resolve(num_inference_steps=steps).num_inference_steps == steps


@pytest.mark.parametrize("steps", [0, -1, 101, 10_000])
def test_steps_outside_the_limits(steps: int) -> None:
    error = refusal(num_inference_steps=steps)
    assert (error.status, error.param) == (400, "num_inference_steps")
    assert "from 1 to 100" in error.message


@pytest.mark.parametrize("scale", [0.0, 1, 7.5, 20.0])
def test_guidance_within_the_limits(scale: float) -> None:
    guidance = resolve(guidance_scale=scale).guidance_scale
    assert guidance == scale
    assert isinstance(guidance, float)


@pytest.mark.parametrize("scale", [-0.1, -1, 20.1, 1e308, math.nan, math.inf, -math.inf])
def test_guidance_outside_the_limits(scale: float) -> None:
    error = refusal(guidance_scale=scale)
    assert (error.status, error.param) == (400, "guidance_scale")
    assert "from 0 to 20" in error.message


def test_guidance_is_refused_where_the_model_works_without() -> None:
    assert "without guidance" in refusal(model="flux-schnell", guidance_scale=3.0).message
    same = FLUX.defaults.guidance_scale
    assert resolve(model="flux-schnell", guidance_scale=same).guidance_scale == same


@pytest.mark.parametrize(("seed", "n"), [(0, 1), (2**63 - 1, 1), (2**63 - 10, 10)])
def test_seeds_within_the_limits(seed: int, n: int) -> None:
    request = resolve(seed=seed, n=n)
    assert request.seed == seed
    assert [request.image_seed(i) for i in range(n)] == list(range(seed, seed + n))


@pytest.mark.parametrize(("seed", "n"), [(-1, 1), (2**63, 1), (2**63 - 1, 2), (-(2**63), 1)])
def test_seeds_outside_the_limits(seed: int, n: int) -> None:
    error = refusal(seed=seed, n=n)
    assert (error.status, error.param) == (400, "seed")


@pytest.mark.parametrize("name", sorted(SCHEDULERS["sd"]))
def test_every_scheduler_of_the_family_can_be_named(name: str) -> None:
    assert resolve(scheduler=name).scheduler == name


@pytest.mark.parametrize("name", ["", "Euler", "flow-euler", "x" * 500])
def test_an_unknown_scheduler_says_which_exist(name: str) -> None:
    error = refusal(scheduler=name)
    assert (error.status, error.param) == (400, "scheduler")
    assert "emoji-3d has: euler, euler-a, ddim" in error.message
    assert len(error.message) < 250


@pytest.mark.parametrize("compression", [-1, 101])
def test_compression_outside_the_limits(compression: int) -> None:
    assert refusal(output_compression=compression).param == "output_compression"


def test_an_adapter_that_does_not_exist_is_not_found() -> None:
    error = refusal(loras=(LoraChoice("alice-style@2"),))
    assert isinstance(error, NotFound)
    assert (error.param, error.code) == ("loras", "adapter_not_found")


@pytest.mark.parametrize(
    "metadata",
    [
        {f"key{i}": "" for i in range(17)},
        {"": "value"},
        {"$set": "value"},
        {"a.b": "value"},
        {"k" * 65: "value"},
        {"key": "v" * 513},
        {"key": "a\x00"},
        {"key\n": "value"},
    ],
)
def test_metadata_that_is_refused(metadata: dict[str, str]) -> None:
    error = refusal(metadata=metadata)
    assert (error.status, error.param) == (400, "metadata")


def test_metadata_up_to_the_limits_is_taken() -> None:
    resolve(metadata={f"key-{i}": "v" * 512 for i in range(15)} | {"k" * 64: ""})


@pytest.mark.parametrize("user", ["x" * 257, "a\x00"])
def test_a_user_that_is_refused(user: str) -> None:
    assert refusal(user=user).param == "user"


async def test_what_is_submitted_is_stored_with_all_its_choices(house: House) -> None:
    wish = ImageWish("a red apple", n=2, seed=5, priority="low", metadata={"order": "1"}, user="u1")
    job = (await house.services.submission.submit(ALICE, wish, request_id="req_1")).job
    stored = await house.store.get("alice", job.id)
    assert stored.request == job.request == resolve(n=2, seed=5)
    assert (stored.priority, stored.metadata, stored.user, stored.request_id) == ("low", {"order": "1"}, "u1", "req_1")


async def test_high_priority_is_for_admins(houses: OpenHouse) -> None:
    house = await houses(sweeps=False)
    wish = ImageWish("a red apple", priority="high")
    with pytest.raises(Forbidden):
        await house.services.submission.submit(ALICE, wish, request_id="")
    assert await house.store.count_queued() == 0
    assert (await house.services.submission.submit(ADMIN, wish, request_id="")).job.priority == "high"


async def test_a_full_queue_refuses_a_tenant_and_then_everybody_and_stores_nothing(houses: OpenHouse) -> None:
    house = await houses(sweeps=False, jobs={"max_queued_per_tenant": 2, "max_queued": 3})
    submit = house.services.submission.submit
    bob = Caller(tenant="bob", role="member", key_id="key_3")
    wish = ImageWish("a red apple")
    for _ in range(2):
        await submit(ALICE, wish, request_id="")
    with pytest.raises(TooManyRequests) as caught:
        await submit(ALICE, wish, request_id="")
    assert (caught.value.code, caught.value.headers) == ("tenant_queue_full", {"Retry-After": "10"})
    job = (await submit(bob, wish, request_id="")).job
    with pytest.raises(TooManyRequests) as caught:
        await submit(bob, wish, request_id="")
    assert caught.value.code == "queue_full"
    assert await house.store.count_queued() == 3
    await house.drive(job)
    assert await house.store.count_queued() == 2
    await submit(bob, wish, request_id="")


async def test_what_is_refused_is_not_stored(houses: OpenHouse) -> None:
    house = await houses(sweeps=False)
    for wish in (ImageWish(""), ImageWish("x", n=0), ImageWish("x", model="none")):
        with pytest.raises((AppError, UnknownModel)):
            await house.services.submission.submit(ALICE, wish, request_id="")
    assert await house.store.count_queued() == 0
