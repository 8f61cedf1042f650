"""What an engine does before its first request: fills caches and kernels, and measures what a step takes."""

import math

import torch

from configs.settings import EngineSettings
from models.errors import OutOfMemory
from models.loader import LoadedModel
from models.spec import ModelSpec
from pipelines.device import free_cache, is_out_of_memory
from pipelines.families.base import Family
from pipelines.request import GenerationRequest
from pipelines.sample import Order
from pipelines.step_times import StepTimes


def warm_up(family: Family, times: StepTimes, settings: EngineSettings) -> list[int]:
    """One text, one decoded picture, and steps of every size that the catalogue suggests and the table lacks.

    Gives the pixels (rows × width × height) of those steps that did not fit into memory.
    """
    prompt = family.encode(["warm-up"], [()])[0]
    smallest, *_ = sizes = sizes_of(family.spec)

    def run(width_px: int, height_px: int, num_rows: int) -> float:
        # A step with no guidance: a row is a row, whatever it is for.
        order = Order(_request(family.spec, width_px, height_px), 0, prompt, None)
        samples = [family.start(order) for _ in range(num_rows)]
        try:
            return family.step(samples).forward_s
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            free_cache(family.device)
            raise OutOfMemory(f"{num_rows} rows of {width_px}x{height_px} do not fit.") from None

    run(*smallest, 1)  # the very first pass pays for what all later ones find ready
    # Every shape that is not compiled now would be compiled under somebody's request.
    budget_s = math.inf if settings.compile else settings.measure_budget_s
    too_large = times.measure(sizes, settings.measure_rows, run, budget_s=budget_s)
    sample = family.start(Order(_request(family.spec, *smallest), 0, prompt, None))
    family.decode([sample.latents], width_px=smallest[0], height_px=smallest[1], tiled=False)
    return [width_px * height_px * num_rows for width_px, height_px, num_rows in too_large]


def sizes_of(spec: ModelSpec) -> list[tuple[int, int]]:
    """Width and height of every size that the catalogue suggests, and of the smallest one, fewest pixels first."""
    limits = spec.limits
    smallest_px = -(-limits.min_side_px // limits.side_multiple_px) * limits.side_multiple_px
    sizes = {(smallest_px, smallest_px)}
    for size in spec.sizes:
        width_px, height_px = size.split("x")
        sizes.add((int(width_px), int(height_px)))
    return sorted(sizes, key=lambda size: (size[0] * size[1], size))


def table_fingerprint(loaded: LoadedModel, settings: EngineSettings) -> dict[str, str]:
    """What step times depend on; equal where they may be taken over from an earlier start."""
    device = torch.cuda.get_device_name(loaded.device) if loaded.device.type == "cuda" else "cpu"
    return {
        "device": device,
        "dtype": str(loaded.dtype),
        "threads": str(torch.get_num_threads()),
        "torch": torch.__version__,
        "weights": loaded.weights_sha256,
        "channels_last": str(settings.channels_last),
        "compile": str(settings.compile),
        "cuda_graphs": str(settings.cuda_graphs),
    }


def _request(spec: ModelSpec, width_px: int, height_px: int) -> GenerationRequest:
    return GenerationRequest(
        model_id=spec.id,
        prompt="warm-up",
        negative_prompt="",
        width_px=width_px,
        height_px=height_px,
        num_images=1,
        seed=0,
        num_inference_steps=2,  # of which one is made; some schedules do not come with only one
        guidance_scale=spec.defaults.guidance_scale,
    )
