"""From what each arm took to figures, ratios and aims. Pure sums: measures nothing."""

from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Any

import torch
from engine_figures import Aim, Section, ratio

MIB = 1024**2
BATCH = "batch {}"  # section of the figures at a batch size
GATE = "same losses"
RATES, JOBS = "samples per s, {} / {}", "whole job, times faster, {} than {}"
CPU_AIM, CUDA_AIM = 1.5, 2.0

Takens = Sequence[Mapping[str, Any]]  # training_watch.Taken as JSON, one for each repeat


def summarised(takens: Mapping[str, Takens], *, base: str) -> Section:
    """Medians of each arm; then ratios to `base`, each the median of those within a repeat."""
    section: Section = {}
    for arm, repeats in takens.items():
        section |= {
            f"{arm}: samples per s": _median(repeats, "samples_per_s"),
            f"{arm}: whole job s": _median(repeats, "job_s"),
            f"{arm}: first step after s": _median(repeats, "first_step_s"),
            f"{arm}: peak memory MiB": _median(repeats, "peak_bytes") / MIB,
            f"{arm}: CPU s": _median(repeats, "cpu_s"),
        }
    for arm, repeats in takens.items():
        if arm != base:
            section[RATES.format(arm, base)] = ratio(
                _all(repeats, "samples_per_s"), _all(takens[base], "samples_per_s")
            )
            section[JOBS.format(arm, base)] = ratio(_all(takens[base], "job_s"), _all(repeats, "job_s"))
    return section


def aims_for(batch_sizes: Iterable[int], device: torch.device, *, ours: str, base: str) -> list[Aim]:
    bound = CUDA_AIM if device.type == "cuda" else CPU_AIM
    return [
        Aim(BATCH.format(size), figure.format(ours, base), bound) for size in batch_sizes for figure in (RATES, JOBS)
    ]


def _median(repeats: Takens, name: str) -> float:
    return median(_all(repeats, name))


def _all(repeats: Takens, name: str) -> list[float]:
    return [float(taken[name]) for taken in repeats]
