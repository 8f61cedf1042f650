"""From what was measured to figures, verdicts and the report. Pure sums and files: measures nothing."""

import io
import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import fmean, median

import numpy as np
import torch
from PIL import Image

Section = dict[str, float]
Figures = dict[str, Section]  # section → figure → value

LOAD = "load {:g}"  # section of the latencies at a load
BURST, LORAS, FIRST_STEP, LOOP, PICTURES, CUDA = "burst", "LoRAs", "first step", "loop", "pictures", "CUDA"


@dataclass(frozen=True, slots=True)
class Aim:
    """What a figure should be."""

    section: str
    figure: str
    bound: float
    is_ceiling: bool = False

    def is_met(self, value: float) -> bool:
        return value <= self.bound if self.is_ceiling else value >= self.bound

    def __str__(self) -> str:
        return f"{self.section}: {self.figure} {'≤' if self.is_ceiling else '≥'} {self.bound:g}"


AIMS = (
    Aim(LOAD.format(0.9), "p95 ours / A", 0.4, is_ceiling=True),
    Aim(LORAS, "half with one of eight / none", 0.85),
    Aim(LORAS, "all with one of eight / none", 0.85),
    Aim(FIRST_STEP, "steps of others before it, most", 1.0, is_ceiling=True),
    Aim(LOOP, "share outside the denoiser", 0.08, is_ceiling=True),
    Aim(CUDA, "share of matrix peak", 0.45),
)
CPU_BURST_AIM = 2.0
CUDA_BURST_AIMS = {"sd15": 3.0, "sdxl": 2.5}  # by model


def aims_for(model_id: str, device: torch.device) -> list[Aim]:
    bound = CUDA_BURST_AIMS.get(model_id) if device.type == "cuda" else CPU_BURST_AIM
    return [*([Aim(BURST, "ours / A", bound)] if bound else []), *AIMS]


def verdicts(figures: Figures, aims: Sequence[Aim]) -> dict[str, bool]:
    """Whether each aim was met, of those whose figure was taken."""
    found = {aim: figures.get(aim.section, {}).get(aim.figure) for aim in aims}
    return {str(aim): aim.is_met(value) for aim, value in found.items() if value is not None}


def percentile(values: Sequence[float], percent: float) -> float:
    """Nearest rank: a value that was really measured, never one between two."""
    ordered = sorted(values)
    return ordered[max(1, -(-len(ordered) * int(percent) // 100)) - 1]


def throughput(rates_per_s: Mapping[str, Sequence[float]]) -> Section:
    """Medians over the repeats, and medians of the ratios within a repeat: what slows one repeat slows all systems."""
    section = {f"{name} per s": median(rates) for name, rates in rates_per_s.items()}
    for name in ("ours", "B"):
        section[f"{name} / A"] = ratio(rates_per_s[name], rates_per_s["A"])
    return section


def ratio(over: Sequence[float], under: Sequence[float]) -> float:
    return median(a / b for a, b in zip(over, under, strict=True))


def latency(latencies_s: Mapping[str, Sequence[float]]) -> Section:
    """Of all repeats together, by system, and ours over A's."""
    section: Section = {}
    for name, values_s in latencies_s.items():
        section |= {f"{name} p{p} s": percentile(values_s, p) for p in (50, 95)} | {f"{name} mean s": fmean(values_s)}
    for figure in ("p50", "p95", "mean"):
        section[f"{figure} ours / A"] = section[f"ours {figure} s"] / section[f"A {figure} s"]
    return section


def compare(ours: Sequence[bytes], theirs: Sequence[bytes]) -> Section:
    """How far pictures are from those they should equal, in steps of 1/255."""
    differences = [
        np.abs(_pixels(a).astype(np.int16) - _pixels(b).astype(np.int16)) for a, b in zip(ours, theirs, strict=True)
    ]
    mean_squares = [float(np.square(difference, dtype=np.float64).mean()) for difference in differences]
    return {
        "compared": len(differences),
        "largest difference of 255": float(max(difference.max() for difference in differences)),
        "worst PSNR dB": min(10 * float(np.log10(255**2 / max(mean, 1e-6))) for mean in mean_squares),
        "median PSNR dB": median(10 * float(np.log10(255**2 / max(mean, 1e-6))) for mean in mean_squares),
    }


def hardware(device: torch.device) -> str:
    """The device in words."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown CPU")
    return f"{name}, {len(os.sched_getaffinity(0))} cores"


def write_json(path: Path, figures: Figures, aims: dict[str, bool], about: Mapping[str, object]) -> None:
    report = {
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("darkroom", "torch", "diffusers", "peft", "transformers")},
        "load_average": os.getloadavg(),
        **about,
        "figures": figures,
        "aims": aims,
    }
    _write(path, json.dumps(report, indent=2) + "\n")


def write_markdown(path: Path, figures: Figures, aims: dict[str, bool], title: str) -> None:
    lines = [f"# {title}", "", "| what | figure | value |", "|---|---|---|"]
    lines += [f"| {section} | {name} | {shown(value)} |" for section, name, value in rows_of(figures)]
    lines += ["", "| aim | met |", "|---|---|", *(f"| {aim} | {'yes' if met else 'no'} |" for aim, met in aims.items())]
    _write(path, "\n".join(lines) + "\n")


def rows_of(figures: Figures) -> list[tuple[str, str, float]]:
    return [(section, name, value) for section, values in figures.items() for name, value in values.items()]


def shown(value: float) -> str:
    """Three digits that matter."""
    return f"{value:.0f}" if value == int(value) or abs(value) >= 1000 else f"{value:.3g}"


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")


def _pixels(picture: bytes) -> "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]":
    with Image.open(io.BytesIO(picture)) as image:
        return np.asarray(image.convert("RGB"))
