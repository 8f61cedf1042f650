"""Where time goes: what threads are at, PyTorch's own profile, and how near a denoiser comes to the device's peak."""

import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

SAMPLE_EVERY_S = 0.003
NUM_PLACES, NUM_OPERATORS = 16, 18
# The innermost frame that lies in one of these says what a thread is at.
WORK = {
    "models/lora/": "LoRA",
    "diffusers/schedulers/": "schedulers",
    "diffusers/models/": "forward",
    "transformers/": "forward",
    "diffusers/image_processor": "pixels",
    "PIL/": "pixels",
    "pipelines/": "engine",
    "threading.py": "waiting",
    "queue.py": "waiting",
}
Inputs = tuple[tuple[Any, ...], dict[str, Any]]  # of a module: by position, by name
MATMUL_SIDES = (4096, 8192, 16_384)
NUM_TIMED = 10


class ThreadSampler:
    """Looks every few milliseconds at what each thread is doing; sees Python's frames, also while they wait for C++."""

    def __init__(self) -> None:
        self._work: dict[str, Counter[str]] = {}
        self._places: dict[str, Counter[str]] = {}
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sampler", daemon=True)

    def __enter__(self) -> "ThreadSampler":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()

    def report(self) -> str:
        """Threads by name, what they did, and where in the code they were, in percent of their samples."""
        lines: list[str] = []
        for name, work in sorted(self._work.items()):
            total = work.total()
            if work["waiting"] == total:
                continue
            lines.append(f"\n{name}: " + ", ".join(f"{what} {n / total:.1%}" for what, n in work.most_common()))
            places = self._places[name].most_common(NUM_PLACES)
            lines += [f"  {count / total:6.1%}  {place}" for place, count in places]
        return "\n".join(lines)

    def _run(self) -> None:
        while not self._is_over.wait(SAMPLE_EVERY_S):
            names = {thread.ident: thread.name for thread in threading.enumerate()}
            for ident, frame in sys._current_frames().items():
                name = names.get(ident, "?")
                if name in ("MainThread", "sampler"):
                    continue
                what, place = _seen(frame)
                name = name.partition("_")[0]  # threads of one pool together
                self._work.setdefault(name, Counter())[what] += 1
                self._places.setdefault(name, Counter())[f"{what:10} {place}"] += 1


def _seen(frame: FrameType) -> tuple[str, str]:
    """What the innermost frame that we can name is about, and where it is."""
    current: FrameType | None = frame
    while current is not None:
        path = current.f_code.co_filename
        for part, what in WORK.items():
            if part in path:
                return what, f"{'/'.join(path.split('/')[-2:])}:{current.f_lineno} {current.f_code.co_name}"
        current = current.f_back
    return "else", f"{frame.f_code.co_filename}:{frame.f_lineno}"


def operators(run: Callable[[], object], device: torch.device) -> str:
    """PyTorch's most expensive operators during `run`, in all threads."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    order = "self_cpu_time_total"
    if device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
        order = "self_device_time_total"
    config = torch._C._profiler._ExperimentalConfig(profile_all_threads=True)
    with torch.profiler.profile(activities=activities, experimental_config=config) as profile:
        run()
    return str(profile.key_averages().table(sort_by=order, row_limit=NUM_OPERATORS, max_name_column_width=48))


def matrix_peak_per_s(device: torch.device, dtype: torch.dtype) -> float:
    """Floating-point operations a second of the best large matrix product."""
    rates = []
    for side in MATMUL_SIDES:
        factors = [torch.randn(side, side, device=device, dtype=dtype) for _ in range(2)]
        rates.append(2 * side**3 / _seconds(partial(torch.mm, *factors), device))
    return max(rates)


def catch_inputs(module: torch.nn.Module, run: Callable[[], object]) -> Inputs:
    """What `module` is called with last while `run` runs."""
    caught: list[Inputs] = []
    hook = module.register_forward_pre_hook(lambda _, args, kwargs: caught.append((args, kwargs)), with_kwargs=True)
    try:
        run()
    finally:
        hook.remove()
    return caught[-1]


def num_rows(inputs: Inputs) -> int:
    """Of the batch: every denoiser's first tensor has its rows in the first dimension."""
    args, kwargs = inputs
    return next(len(value) for value in (*args, *kwargs.values()) if isinstance(value, torch.Tensor) and value.ndim > 1)


def operations_per_s(module: torch.nn.Module, inputs: Inputs, forward: Callable[..., object]) -> float:
    """Floating-point operations a second of `forward`, counted on `module`, which computes the same uncompiled."""
    args, kwargs = inputs
    device = next(module.parameters()).device
    with torch.inference_mode():
        with FlopCounterMode(display=False) as counter:
            module(*args, **kwargs)
        num_operations: int = counter.get_total_flops()
        return num_operations / _seconds(lambda: forward(*args, **kwargs), device)


def _seconds(run: Callable[[], object], device: torch.device) -> float:
    """The median of several runs after three that do not count."""
    times_s = []
    for _ in range(3 + NUM_TIMED):
        began_s = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times_s.append(time.perf_counter() - began_s)
    return sorted(times_s[3:])[NUM_TIMED // 2]
