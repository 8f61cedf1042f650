"""Measures our LoRA training against the loop of diffusers' example scripts: samples per second, and the whole job.

Arms, of the same weights, pictures, captions, LoRA, optimiser, threads and number of samples, each job in a process of
its own, taking turns so that a slow moment of the machine meets all:
  diffusers  the loop of train_text_to_image_lora.py or ..._lora_sdxl.py, as it comes
  ours       Darkroom's
--ladder adds what lies between the two, one thing more at a time.
No figure counts unless it is the same training: fed the same chance, in float32, both must make the same losses, and
save the same LoRA; a difference ends with exit code 1.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from engine_baselines import BenchFailed
from engine_figures import Figures, hardware, rows_of, shown, verdicts, write_json, write_markdown
from engine_models import CATALOGUE_IDS
from rich.console import Console
from rich.table import Table
from training_arm import ARMS, COMPILED, DIFFUSERS, GATE, OURS, run_apart, run_here
from training_figures import BATCH, aims_for, summarised
from training_figures import GATE as GATE_SECTION
from training_gate import what_differs
from training_job import TINY, Job, draw_pictures

from models.catalog import get_model, load_catalog
from models.errors import ModelError
from models.loader import pick_device

Run = Callable[[str, Job], dict[str, Any]]
ARCHITECTURES = ("sd15", "sdxl")
SAMPLES = {"cpu": 512, "cuda": 1024}
NUM_PICTURES = 24
TINY_SIDE_PX, TINY_SAMPLES, TINY_GATE_STEPS = 64, 12, 4


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    try:
        with tempfile.TemporaryDirectory() as folder:
            return run(args, Path(folder))
    except (BenchFailed, ModelError) as error:
        print(f"not measured: {error}", file=sys.stderr)
        return 2


def run(args: argparse.Namespace, folder: Path) -> int:
    """Measures and reports; 1 when the arms are not the same training or, with --check, when an aim is missed."""
    device = pick_device(args.device)
    job = job_for(args, folder, device)
    draw_pictures(folder, count=NUM_PICTURES + 1, side_px=job.side_px, seed=args.seed)
    # A tiny model shows that all of it works; to start processes for that would take longer than all the rest.
    start: Run = run_here if args.tiny else run_apart
    figures: Figures = {}
    if args.gate_steps:
        print("comparing losses", file=sys.stderr)
        figures[GATE_SECTION] = start(GATE, replace(job, batch_size=1, steps=args.gate_steps))
    figures |= measure(args, job, start)
    ours = COMPILED if COMPILED in args.arms else OURS
    aims = verdicts(figures, aims_for(args.batch_sizes, device, ours=ours, base=DIFFUSERS))
    about = {
        "hardware": hardware(device),
        "model": args.random_weights or job.model,
        "has_random_weights": bool(args.random_weights),
        "job": {name: value for name, value in asdict(job).items() if name != "data"},
        "samples": args.samples,
        "pictures": NUM_PICTURES,
        "repeats": args.repeats,
    }
    title = f"Training {about['model']} at {job.side_px} px, {job.dtype}, {about['hardware']}"
    show(figures, aims, title)
    write_json(args.json, figures, aims, about)
    write_markdown(args.table or args.json.with_suffix(".md"), figures, aims, title)
    print(f"written: {args.json}, and a table beside it")
    if GATE_SECTION in figures and (problem := what_differs(figures[GATE_SECTION])):
        print(f"the figures mean nothing: {problem}", file=sys.stderr)
        return 1
    return 1 if args.check and not all(aims.values()) else 0


def measure(args: argparse.Namespace, job: Job, start: Run) -> Figures:
    """All arms at all batch sizes, in turns."""
    takens: dict[int, dict[str, list[dict[str, Any]]]] = {
        size: {arm: [] for arm in args.arms} for size in args.batch_sizes
    }
    for number in range(args.repeats):
        for size, of_size in takens.items():
            steps = max(2, args.samples // size)
            batched = replace(job, batch_size=size, steps=steps, warm_up_steps=min(args.warm_up, steps // 2))
            for arm in args.arms:
                print(f"repeat {number + 1} of {args.repeats}, batch {size}: {arm}", file=sys.stderr)
                of_size[arm].append(start(arm, batched))
    return {BATCH.format(size): summarised(of_size, base=DIFFUSERS) for size, of_size in takens.items()}


def job_for(args: argparse.Namespace, folder: Path, device: torch.device) -> Job:
    """What all arms are given, but for the batch size and what hangs on it."""
    spec = get_model(load_catalog(), CATALOGUE_IDS.get(args.random_weights, args.model))
    side_px = args.side or (TINY_SIDE_PX if args.tiny else spec.defaults.width_px)
    return Job(
        model=TINY if args.tiny else spec.id,
        architecture=args.random_weights,
        device="cuda" if device.type == "cuda" else "cpu",
        dtype=args.dtype or ("bfloat16" if device.type == "cuda" else "float32"),
        threads=args.threads,
        data=str(folder),
        side_px=side_px,
        batch_size=1,
        steps=args.samples,
        warm_up_steps=0,
        seed=args.seed,
    )


def show(figures: Figures, aims: dict[str, bool], title: str) -> None:
    table = Table("what", "figure", "value", title=title, box=None)
    for section, name, value in rows_of(figures):
        table.add_row(section, name, shown(value))
    console = Console()
    console.print(table)
    for aim, is_met in aims.items():
        console.print(f"{'met   ' if is_met else 'MISSED'}  {aim}")


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="emoji-3d", help="of the catalogue (default: the one that ships with us)")
    parser.add_argument("--random-weights", choices=ARCHITECTURES, help="instead: the architecture, no weights needed")
    parser.add_argument("--tiny", action="store_true", help="instead: a toy, in this process; shows that it works")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="default: float32 on a CPU, bfloat16 on a GPU")
    parser.add_argument("--threads", type=int, default=0, help="of a CPU (default: all cores)")
    parser.add_argument("--side", type=_positive, help="of the pictures in px (default: the model's own)")
    parser.add_argument("--batch-sizes", type=_positive, nargs="+", default=[1, 4])
    parser.add_argument("--samples", type=_positive, help=f"that each job learns from (default: {SAMPLES})")
    parser.add_argument("--warm-up", type=_positive, default=10, help="steps that are not counted as steady")
    parser.add_argument("--repeats", type=_positive, help="of everything (default: 3)")
    parser.add_argument("--gate-steps", type=int, help="that must give the same losses (default: 20; 0: not checked)")
    parser.add_argument("--ladder", action="store_true", help="measure what lies between the two arms, too")
    parser.add_argument("--compile", action="store_true", help="measure ours with its denoiser compiled, too (CUDA)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, default=Path(".darkroom/bench/training.json"), help="report as JSON")
    parser.add_argument("--table", type=Path, help="as Markdown (default: beside the JSON)")
    parser.add_argument("--check", action="store_true", help="exit with 1 when an aim is missed, too")
    args = parser.parse_args(argv)
    device = "cuda" if args.device != "cpu" and torch.cuda.is_available() else "cpu"
    args.samples = args.samples or (TINY_SAMPLES if args.tiny else SAMPLES[device])
    args.repeats = args.repeats or (1 if args.tiny else 3)
    if args.gate_steps is None:
        args.gate_steps = TINY_GATE_STEPS if args.tiny else 20
    wanted = {DIFFUSERS, OURS, *(ARMS if args.ladder else ()), *([COMPILED] if args.compile else [])}
    args.arms = [arm for arm in ARMS if arm in wanted and (arm != COMPILED or device == "cuda")]
    return args


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not above 0")
    return value


if __name__ == "__main__":
    sys.exit(main())
