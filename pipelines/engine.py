"""Engine: runs requests on one loaded model, one picture after another. Blocking; knows no jobs, no Ray, no storage."""

import hashlib
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager

import torch
from PIL import Image

from models.errors import GenerationCancelled, GenerationError, OutOfMemory
from models.loader import LoadedModel
from pipelines.families import FAMILIES
from pipelines.families.base import PixelsHWC
from pipelines.media import Provenance, encode_image
from pipelines.request import (
    CONTENT_TYPES,
    EngineInfo,
    GeneratedImage,
    GenerationRequest,
    GenerationResult,
    Progress,
)


def _ignore_progress(_progress: Progress) -> None:
    return None


def _never() -> bool:
    return False


class Engine:
    """One model, one request at a time: callers in other threads wait for their turn."""

    def __init__(self, loaded: LoadedModel) -> None:
        self._loaded = loaded
        self._family = FAMILIES[loaded.spec.family](loaded)
        self._turn = threading.Lock()

    def generate(
        self,
        request: GenerationRequest,
        *,
        on_progress: Callable[[Progress], None] = _ignore_progress,
        is_cancelled: Callable[[], bool] = _never,
    ) -> GenerationResult:
        """All pictures of `request`. GenerationError says why not; its `code` is stable.

        Both callables are called from this thread after every step; what they raise stops the request.
        """
        self._check(request)
        came_s = time.perf_counter()
        with self._turn:
            began_s = time.perf_counter()
            images = tuple(
                self._make_image(request, index, on_progress, is_cancelled) for index in range(request.num_images)
            )
            ended_s = time.perf_counter()
        return GenerationResult(images, engine_s=ended_s - began_s, waited_s=began_s - came_s)

    def warm_up(self) -> float:
        """One tiny step, so that the first caller does not pay for caches and kernels; returns its seconds."""
        spec = self._loaded.spec
        side_px = -(-spec.limits.min_side_px // spec.limits.side_multiple_px) * spec.limits.side_multiple_px
        request = GenerationRequest(
            model_id=spec.id,
            prompt="warm-up",
            negative_prompt="",
            width_px=side_px,
            height_px=side_px,
            num_images=1,
            seed=0,
            num_inference_steps=1,
            guidance_scale=spec.defaults.guidance_scale,
        )
        return self.generate(request).engine_s

    def describe(self) -> EngineInfo:
        loaded = self._loaded
        return EngineInfo(
            model_id=loaded.spec.id,
            device=str(loaded.device),
            dtype=str(loaded.dtype).removeprefix("torch."),
            weights_sha256=loaded.weights_sha256,
            num_parameters=loaded.num_parameters,
        )

    def _check(self, request: GenerationRequest) -> None:
        if request.model_id != self._loaded.spec.id:
            raise GenerationError(f"This engine serves {self._loaded.spec.id!r}, not {request.model_id!r}.")
        if request.loras:
            raise GenerationError("Adapters (loras) are not available on this server yet.")

    def _make_image(
        self,
        request: GenerationRequest,
        index: int,
        on_progress: Callable[[Progress], None],
        is_cancelled: Callable[[], bool],
    ) -> GeneratedImage:
        seed = request.image_seed(index)
        steps = request.num_inference_steps

        def on_step(step: int) -> None:
            if is_cancelled():
                raise GenerationCancelled("The request was cancelled.")
            # Some schedulers take one step more than asked for; the caller's count must not run over.
            on_progress(Progress(index * steps + min(step, steps), request.num_images * steps))

        if is_cancelled():
            raise GenerationCancelled("The request was cancelled.")
        with self._translated_errors(), torch.inference_mode():
            pixels_HWC = self._family.paint(request, seed, on_step)
        data = encode_image(_to_image(pixels_HWC), self._provenance(request, seed))
        return GeneratedImage(
            data=data,
            content_type=CONTENT_TYPES[request.output_format],
            width_px=pixels_HWC.shape[1],
            height_px=pixels_HWC.shape[0],
            seed=seed,
            sha256=hashlib.sha256(data).hexdigest(),
        )

    def _provenance(self, request: GenerationRequest, seed: int) -> Provenance:
        return Provenance(
            request=request,
            seed=seed,
            sampler=self._family.sampler(request.scheduler),
            weights_sha256=self._loaded.weights_sha256,
            created=int(time.time()),
        )

    @contextmanager
    def _translated_errors(self) -> Generator[None, None, None]:
        try:
            yield
        except (torch.OutOfMemoryError, MemoryError) as error:
            self._free_cache()
            raise OutOfMemory("The model ran out of memory; a smaller size may fit.") from error
        except ValueError as error:  # an unknown scheduler, or arguments that the pipeline refuses
            raise GenerationError(str(error)) from error
        except RuntimeError as error:
            # The CPU allocator has no error class of its own.
            if "can't allocate memory" in str(error):
                raise OutOfMemory("The machine ran out of memory; a smaller size may fit.") from error
            raise GenerationError(f"The model failed: {error}") from error

    def _free_cache(self) -> None:
        if self._loaded.device.type == "cuda":
            torch.cuda.empty_cache()


def _to_image(pixels_HWC: PixelsHWC) -> Image.Image:
    # The rounding of diffusers' own image processor, so that pixels are the same.
    return Image.fromarray((pixels_HWC * 255).round().astype("uint8"))
