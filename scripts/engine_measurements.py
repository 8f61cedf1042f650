"""Plays the workload to the engine and to plain diffusers in turns and takes the figures. Prints nothing."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, median
from threading import Event

import torch
from engine_baselines import STALL_S, BenchFailed, PlainDiffusers, Run, Server, load_adapters, play
from engine_figures import (
    BURST,
    CUDA,
    FIRST_STEP,
    LOAD,
    LOOP,
    LORAS,
    PICTURES,
    Figures,
    compare,
    latency,
    ratio,
    throughput,
)
from engine_profile import ThreadSampler, catch_inputs, matrix_peak_per_s, num_rows, operations_per_s, operators
from engine_workload import make_requests, poisson_arrivals_s, with_loras, write_adapters

from configs.settings import EngineSettings
from models.loader import LoadedModel
from pipelines.engine import Engine
from pipelines.meter import EngineMeter
from pipelines.preparing import Sources
from pipelines.request import GenerationRequest, Progress
from pipelines.speed import compiler_for
from pipelines.ticket import EngineEvent

MAX_EQUAL_BATCH = 8
WARM_STEPS = 3
NUM_WAITS = 12
STEPS_BEFORE_WAIT = 5  # of the long request, to see how long they are
MATRIX_ROWS = 8  # of the batch whose share of the matrix peak is taken


class StepLog(EngineMeter):
    """What the loop says of its steps."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        self.num_steps = self.num_rows = 0
        self.forward_s = self.overhead_s = 0.0
        self.ended_s = 0.0  # the last step

    def stepped(self, num_rows: int, num_samples: int, seconds: float, overhead_s: float) -> None:  # noqa: ARG002
        self.num_steps += 1
        self.num_rows += num_rows
        self.forward_s += seconds
        self.overhead_s += overhead_s
        self.ended_s = time.perf_counter()


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured."""

    num_requests: int  # of a burst
    repeats: int  # of everything but the loads
    loads: tuple[float, ...]  # shares of what A can serve
    num_load_requests: int  # at each load
    sides_px: tuple[int, ...]
    seed: int


class Bench:
    """The three systems with their requests, and the figures taken so far."""

    def __init__(
        self, ours: LoadedModel, plain: LoadedModel, settings: EngineSettings, plan: Plan, folder: Path
    ) -> None:
        """`plain` is a second copy of the model: the engine changes its own. `folder` is for the adapters' files."""
        self.figures: Figures = {}
        self._ours, self._plain, self._settings, self._plan = ours, plain, settings, plan
        self._component = "transformer" if ours.spec.family == "flux" else "unet"
        denoiser = getattr(ours.pipeline, self._component)
        self._adapters = write_adapters(folder, denoiser, self._component, seed=plan.seed)
        load_adapters(plain.pipeline, self._adapters)
        self._requests = self._make_requests(plan.num_requests)
        self._log = StepLog()
        sources = Sources(read=lambda file: Path(file.key).read_bytes(), fetch=lambda file: Path(file.key))
        self._engine = Engine(ours, settings, sources=sources, meter=self._log)
        self._a = PlainDiffusers(plain.pipeline, ours.spec)
        self._b = PlainDiffusers(plain.pipeline, ours.spec, max_batch=MAX_EQUAL_BATCH)
        self._servers: dict[str, Server] = {"ours": self._engine, "A": self._a, "B": self._b}
        self._rates_per_s: dict[str, list[float]] = {name: [] for name in self._servers}
        self._extra_bytes: dict[str, int] = {}

    def close(self) -> None:
        for server in (self._engine, self._a, self._b):
            server.close()

    def warm_up(self) -> None:
        """Every request once, with few steps: kernels, caches, adapters and the engine's table of times."""
        short = [replace(request, num_inference_steps=WARM_STEPS) for request in self._requests]
        for name in self._servers:
            self._burst(name, short)

    def measure_burst(self) -> None:
        """All requests at once. Takes the share of the loop outside the denoiser and compares the pictures as well."""
        self._log.clear()
        pictures: dict[str, list[bytes]] = {}
        for repeat in range(self._plan.repeats):
            for name in self._in_turn(repeat):
                run = self._burst(name, self._requests)
                self._rates_per_s[name].append(run.requests_per_s)
                pictures[name] = run.pictures
        self.figures[BURST] = throughput(self._rates_per_s)
        log = self._log
        self.figures[LOOP] = {
            "share outside the denoiser": log.overhead_s / (log.forward_s + log.overhead_s),
            "ms in the denoiser a step": 1000 * log.forward_s / log.num_steps,
            "ms outside it a step": 1000 * log.overhead_s / log.num_steps,
            "rows a step": log.num_rows / log.num_steps,
        }
        self.figures[PICTURES] = compare(pictures["ours"], pictures["A"])

    def measure_loads(self) -> None:
        """Requests that come one after the other, at shares of what A could serve; the same moments for all.

        One long run for each, not several short ones: every run begins with an empty queue, and near A's capacity it
        takes far more than a burst's requests until the queue has its usual length.
        """
        capacity_per_s = median(self._rates_per_s["A"] or [self._burst("A", self._requests).requests_per_s])
        requests = self._make_requests(self._plan.num_load_requests)
        for turn, load in enumerate(self._plan.loads):
            arrivals_s = poisson_arrivals_s(load * capacity_per_s, len(requests), seed=self._plan.seed)
            runs = {name: self._play(name, requests, arrivals_s) for name in self._in_turn(turn)}
            self.figures[LOAD.format(load)] = latency({name: runs[name].latencies_s for name in self._servers})

    def measure_loras(self) -> None:
        """The burst with adapters for all, for half (the workload as it is) and for nobody."""
        variants = {
            "none": with_loras(self._requests, ()),
            "half": self._requests,
            "all": with_loras(self._requests, self._adapters),
        }
        rates_per_s: dict[str, list[float]] = {name: [] for name in variants}
        for _ in range(self._plan.repeats):
            for name, requests in variants.items():
                rates_per_s[name].append(self._burst("ours", requests).requests_per_s)
        self.figures[LORAS] = {f"{name} per s": median(rates) for name, rates in rates_per_s.items()} | {
            f"{name} with one of eight / none": ratio(rates_per_s[name], rates_per_s["none"])
            for name in ("half", "all")
        }

    def measure_first_step(self) -> None:
        """A short request comes while a long one runs: how many steps of that end before its own first one begins."""
        template, sides_px = self._requests[0], self._plan.sides_px
        long = replace(template, num_inference_steps=60, guidance_scale=7.0, loras=(), scheduler=None)
        long = replace(long, width_px=max(sides_px), height_px=max(sides_px))
        short = replace(long, width_px=min(sides_px), height_px=min(sides_px), num_inference_steps=5)
        # Each with a prompt of its own, or it would be found in the cache; and at different moments of a step.
        waits = [
            self._wait_for_first_step(long, replace(short, prompt=f"{short.prompt}, number {number}"), number)
            for number in range(NUM_WAITS)
        ]
        counts, times = zip(*waits, strict=True)
        self.figures[FIRST_STEP] = {
            "steps of others before it, most": max(counts),
            "steps of others before it, mean": fmean(counts),
            "wait in steps' time, most": max(times),
            "wait in steps' time, mean": fmean(times),
        }

    def measure_matrix_share(self) -> None:
        """How near the denoiser comes to the device's best matrix product, and the memory beside the weights."""
        side_px = self._ours.spec.defaults.width_px
        request = replace(self._requests[0], loras=(), guidance_scale=0.0, scheduler=None, num_inference_steps=1)
        request = replace(request, width_px=side_px, height_px=side_px)
        plain, own = (getattr(loaded.pipeline, self._component) for loaded in (self._plain, self._ours))
        batch = [replace(request, seed=seed) for seed in range(MATRIX_ROWS)]
        # While the first one runs alone, the others gather.
        inputs = catch_inputs(plain, lambda: self._burst("B", [request, *batch]))
        compiler = compiler_for(self._settings, self._ours.device)
        rate_per_s = operations_per_s(own, inputs, compiler(own) if compiler else own)
        peak_per_s = matrix_peak_per_s(self._ours.device, self._ours.dtype)
        self.figures[CUDA] = {
            "share of matrix peak": rate_per_s / peak_per_s,
            "rows": num_rows(inputs),
            "denoiser TFLOP/s": rate_per_s / 1e12,
            "matrix peak TFLOP/s": peak_per_s / 1e12,
        } | {f"{name} GB beside the weights": extra / 1e9 for name, extra in self._extra_bytes.items()}

    def profile(self) -> str:
        """Where the time of a burst goes in the engine."""
        self._log.clear()
        with ThreadSampler() as sampler:
            run = self._burst("ours", self._requests)
        log = self._log
        summary = (
            f"{run.requests_per_s:.2f} pictures/s, {log.num_steps} steps of {log.num_rows / log.num_steps:.1f} rows: "
            f"{log.forward_s:.2f} s in the denoiser, {log.overhead_s:.2f} s outside it, {run.wall_s:.2f} s in all"
        )
        few = self._requests[: max(4, len(self._requests) // 4)]
        return "\n".join([summary, sampler.report(), operators(lambda: self._burst("ours", few), self._ours.device)])

    def _wait_for_first_step(self, long: GenerationRequest, short: GenerationRequest, number: int) -> tuple[int, float]:
        """How many steps of others end before its own first step begins, and how long that is, in such steps."""
        log = self._log
        is_running, has_stepped = Event(), Event()
        num_steps_then, began_s = 0, 0.0
        stepped_s: list[float] = []

        def hear_long(event: EngineEvent) -> None:
            if isinstance(event, Progress):
                stepped_s.append(time.perf_counter())
            if len(stepped_s) > STEPS_BEFORE_WAIT:
                is_running.set()

        def hear_short(event: EngineEvent) -> None:
            nonlocal num_steps_then, began_s
            if isinstance(event, Progress) and not has_stepped.is_set():
                num_steps_then, began_s = log.num_steps, log.ended_s
                has_stepped.set()

        running = self._engine.submit(long, hear_long)
        _wait_for(is_running, "a long request never ran")
        step_s = (stepped_s[STEPS_BEFORE_WAIT] - stepped_s[0]) / STEPS_BEFORE_WAIT
        time.sleep(step_s * number / NUM_WAITS)
        num_steps_before, came_s = log.num_steps, time.perf_counter()
        waiting = self._engine.submit(short, hear_short)
        _wait_for(has_stepped, "a short request never had its first step")
        if running.is_over:
            raise BenchFailed("the long request ended before the short one began")
        self._engine.cancel(running)
        self._engine.cancel(waiting)
        return num_steps_then - num_steps_before, max(0.0, began_s - came_s) / step_s

    def _make_requests(self, count: int) -> list[GenerationRequest]:
        plan = self._plan
        return make_requests(self._ours.spec, self._adapters, count, sides_px=plan.sides_px, seed=plan.seed)

    def _burst(self, name: str, requests: Sequence[GenerationRequest]) -> Run:
        return self._play(name, requests, [0.0] * len(requests))

    def _play(self, name: str, requests: Sequence[GenerationRequest], arrivals_s: Sequence[float]) -> Run:
        for plain in (self._a, self._b):
            plain.forget_adapters()  # they share a pipeline
        is_cuda = self._ours.device.type == "cuda"
        before_bytes = torch.cuda.memory_allocated() if is_cuda else 0
        if is_cuda:
            torch.cuda.reset_peak_memory_stats()
        run = play(self._servers[name], requests, arrivals_s)
        peak_bytes = torch.cuda.max_memory_allocated() if is_cuda else 0
        self._extra_bytes[name] = max(self._extra_bytes.get(name, 0), peak_bytes - before_bytes)
        return run

    def _in_turn(self, turn: int) -> list[str]:
        """Who starts changes every time."""
        names = list(self._servers)
        first = turn % len(names)
        return names[first:] + names[:first]


def _wait_for(event: Event, what_if_not: str) -> None:
    if not event.wait(STALL_S):
        raise BenchFailed(what_if_not)
