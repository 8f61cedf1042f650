"""The common mixed workload, scaled to a model: who asks for what, and when. Knows no engine and no clock.

Everything follows from the seed, so that each system gets the same requests and the same moments of arrival.
"""

import hashlib
import random
from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate
from pathlib import Path

import torch
from safetensors.torch import save_file

from models.spec import Family, ModelSpec
from pipelines.request import GenerationRequest, LoraChoice, StoredFile

SMALL_SIDES_PX = (64, 96, 128, 192)
LARGE_SIDES_PX = (512, 768, 1024, 1536)
LARGE_FROM_PX = 512  # models that go up to this side get the large sizes
SIDE_SHARES = (0.15, 0.25, 0.45, 0.15)
STEPS = (20, 35)
GUIDANCE = (1.5, 9.0)
UNGUIDED_SHARE = 0.2
LORA_SHARE = 0.5
NUM_ADAPTERS = 8
RANKS = (4, 8, 16)
LORA_STRENGTH = 0.1  # how far an adapter moves a layer's output, relative to a unit input
ATTENTION = (".to_q", ".to_k", ".to_v", ".to_out.0")
# How often each is asked for: mostly the model's own, then what people usually change it to.
SCHEDULER_SHARES: dict[Family, dict[str | None, float]] = {
    "flux": {None: 0.6, "flow-euler": 0.4},
    "sd": {None: 0.4, "dpm++2m-karras": 0.25, "euler-a": 0.15, "euler": 0.1, "ddim": 0.05, "unipc": 0.05},
}
SCHEDULER_SHARES["sdxl"] = SCHEDULER_SHARES["sd"]
COLOURS = ("red", "blue", "green", "yellow", "purple", "white", "black", "golden")
SUBJECTS = (
    "apple", "car", "cat", "rocket", "guitar", "castle", "robot", "tree", "fish", "lamp", "boat", "clock", "mushroom",
    "teapot", "bicycle", "owl",
)  # fmt: skip


def default_sides_px(spec: ModelSpec) -> tuple[int, ...]:
    """The four sides that the workload has for a model of this size."""
    return LARGE_SIDES_PX if spec.limits.max_side_px >= LARGE_FROM_PX else SMALL_SIDES_PX


def make_requests(
    spec: ModelSpec, adapters: Sequence[LoraChoice], count: int, *, sides_px: Sequence[int], seed: int
) -> list[GenerationRequest]:
    """`count` requests for one picture each. Sides other than the four of the workload are equally frequent."""
    draw = random.Random(seed)
    shares = SIDE_SHARES if len(sides_px) == len(SIDE_SHARES) else [1.0] * len(sides_px)
    schedulers = SCHEDULER_SHARES[spec.family]
    requests = []
    for index in range(count):
        side_px = draw.choices(sides_px, shares)[0]
        is_guided = draw.random() >= UNGUIDED_SHARE
        guidance = round(2 * draw.uniform(*GUIDANCE)) / 2  # people ask for halves
        adapter = draw.choice(adapters) if draw.random() < LORA_SHARE else None
        requests.append(
            GenerationRequest(
                model_id=spec.id,
                prompt=f"a {draw.choice(COLOURS)} {draw.choice(SUBJECTS)}, {draw.choice(COLOURS)} background",
                negative_prompt="",
                width_px=side_px,
                height_px=side_px,
                num_images=1,
                seed=1000 * seed + index,
                num_inference_steps=draw.randint(*STEPS),
                guidance_scale=guidance if is_guided else 0.0,
                scheduler=draw.choices(list(schedulers), list(schedulers.values()))[0],
                loras=(adapter,) if adapter else (),
            )
        )
    return requests


def with_loras(requests: Sequence[GenerationRequest], adapters: Sequence[LoraChoice]) -> list[GenerationRequest]:
    """The same requests with one adapter each, in turns; without adapters: with none."""
    return [
        replace(request, loras=(adapters[index % len(adapters)],) if adapters else ())
        for index, request in enumerate(requests)
    ]


def poisson_arrivals_s(rate_per_s: float, count: int, *, seed: int) -> list[float]:
    """Moments of arrival; the first is 0."""
    draw = random.Random(seed)
    gaps_s = (draw.expovariate(rate_per_s) for _ in range(count - 1))
    return list(accumulate(gaps_s, initial=0.0))


def write_adapters(folder: Path, denoiser: torch.nn.Module, component: str, *, seed: int) -> list[LoraChoice]:
    """Random LoRA files for the attention of `denoiser`, in PEFT's naming, of several ranks and scales."""
    choices = []
    for index in range(NUM_ADAPTERS):
        rank = RANKS[index % len(RANKS)]
        path = folder / f"adapter-{index}.safetensors"
        save_file(_random_pairs(denoiser, component, rank, seed=seed + index), path)
        file = StoredFile(key=str(path), sha256=hashlib.sha256(path.read_bytes()).hexdigest())
        choices.append(LoraChoice(path.stem, scale=1.0 if index % 2 else 0.75, file=file))
    return choices


def _random_pairs(denoiser: torch.nn.Module, component: str, rank: int, *, seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, torch.Tensor] = {}
    for path, module in denoiser.named_modules():
        if isinstance(module, torch.nn.Linear) and path.endswith(ATTENTION):
            down = torch.randn(rank, module.in_features, generator=generator) / module.in_features**0.5
            up = torch.randn(module.out_features, rank, generator=generator) * LORA_STRENGTH / rank**0.5
            tensors[f"{component}.{path}.lora_A.weight"], tensors[f"{component}.{path}.lora_B.weight"] = down, up
    return tensors
