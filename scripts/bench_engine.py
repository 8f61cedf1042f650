"""Measures the engine against plain diffusers: throughput of a burst, latency under load, and what mixing costs.

Systems, in one process, of the same dtype and threads, taking turns so that a slow moment of the machine meets all:
  A     one diffusers pipeline, first come first served, with set_adapters or disable_lora for every request
  B     the same pipeline, running requests together that are equal in all but prompt and seed, up to 8
  ours  the engine
No figure counts unless the pictures are the same: ours are compared with A's, and a difference ends with exit code 1.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
import yaml
from diffusers.utils import logging as diffusers_logging
from engine_baselines import BenchFailed
from engine_chart import Line, draw
from engine_figures import (
    BURST,
    LOAD,
    PICTURES,
    Figures,
    aims_for,
    hardware,
    rows_of,
    shown,
    verdicts,
    write_json,
    write_markdown,
)
from engine_measurements import Bench, Plan
from engine_models import CATALOGUE_IDS, catalogue_model, random_model
from engine_workload import default_sides_px
from rich.console import Console
from rich.table import Table

from configs.settings import EngineSettings, ModelSettings
from models.errors import ModelError
from models.loader import DTYPES, LoadedModel

SCENARIOS: dict[str, Callable[[Bench], None]] = {
    "burst": Bench.measure_burst,
    "loads": Bench.measure_loads,
    "loras": Bench.measure_loras,
    "first-step": Bench.measure_first_step,
    "matrix": Bench.measure_matrix_share,
}
DEFAULT_SCENARIOS = ("burst", "loads", "loras", "first-step")
MAX_DIFFERENCE = 2  # of 255, in float32
# Half precision rounds differently in every batch size, in plain diffusers too; below this they are other pictures.
MIN_HALF_PSNR_DB = 25.0
LOADS, QUICK_LOADS = (0.5, 0.9, 1.2), (0.9,)
QUICK_REQUESTS = 16


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    diffusers_logging.set_verbosity_error()  # it warns of adapters that leave the text encoder alone
    try:
        with tempfile.TemporaryDirectory() as folder:
            return run(args, Path(folder))
    except (BenchFailed, ModelError) as error:
        print(f"not measured: {error}", file=sys.stderr)
        return 2


def run(args: argparse.Namespace, folder: Path) -> int:
    """Measures and reports; 1 when pictures differ or, with --check, when an aim is missed."""
    ours, plain = load(args, folder), load(args, folder)
    plan = Plan(
        num_requests=args.requests,
        repeats=args.repeats,
        loads=tuple(args.loads),
        num_load_requests=args.load_requests,
        sides_px=tuple(args.sizes or default_sides_px(ours.spec)),
        seed=args.seed,
    )
    settings = EngineSettings(**{"compile": args.compile, **dict(args.engine)})
    bench = Bench(ours, plain, settings, plan, folder)
    try:
        bench.warm_up()
        if args.profile:
            print(bench.profile())
            return 0
        for name in args.scenarios:
            print(f"measuring: {name}", file=sys.stderr)
            SCENARIOS[name](bench)
    finally:
        bench.close()
    figures = bench.figures
    aims = verdicts(figures, aims_for(ours.spec.id, ours.device))
    about = {
        "hardware": hardware(ours.device),
        "threads": torch.get_num_threads(),
        "model": ours.spec.id,
        "weights_sha256": ours.weights_sha256,
        "dtype": str(ours.dtype).removeprefix("torch."),
        "plan": asdict(plan),
        "engine": settings.model_dump(),
    }
    title = f"{about['model']}, {about['dtype']}, {about['hardware']}, {about['threads']} threads"
    show(figures, aims, title)
    write_json(args.json, figures, aims, about)
    write_markdown(args.table or args.json.with_suffix(".md"), figures, aims, title)
    chart(args.plot or args.json.with_suffix(".png"), figures, title)
    print(f"written: {args.json}, and table and chart beside it")
    if problem := what_differs(figures, ours.dtype):
        print(f"the figures mean nothing: {problem}", file=sys.stderr)
        return 1
    return 1 if args.check and not all(aims.values()) else 0


def load(args: argparse.Namespace, state_dir: Path) -> LoadedModel:
    settings = ModelSettings(device=args.device, dtype=args.dtype, num_threads=args.threads)
    if args.random_weights:
        return random_model(args.random_weights, settings)
    return catalogue_model(args.model, args.dir, settings, state_dir)


def what_differs(figures: Figures, dtype: torch.dtype) -> str | None:
    """Why ours are not A's pictures; None: they are, or were not compared."""
    found = figures.get(PICTURES)
    if found is None:
        return None
    if dtype == torch.float32:
        largest = found["largest difference of 255"]
        return f"a pixel is off by {largest:.0f} of 255" if largest > MAX_DIFFERENCE else None
    median_db = found["median PSNR dB"]
    return f"the median PSNR is {median_db:.1f} dB" if median_db < MIN_HALF_PSNR_DB else None


def show(figures: Figures, aims: dict[str, bool], title: str) -> None:
    table = Table("what", "figure", "value", title=title, box=None)
    for section, name, value in rows_of(figures):
        table.add_row(section, name, shown(value))
    console = Console()
    console.print(table)
    for aim, is_met in aims.items():
        console.print(f"{'met   ' if is_met else 'MISSED'}  {aim}")


def chart(path: Path, figures: Figures, title: str) -> None:
    burst = figures.get(BURST, {})
    by_load = {load: figures[LOAD.format(load)] for load in LOADS if LOAD.format(load) in figures}
    lines = [
        Line(system, [(load, section[f"{system} {figure} s"]) for load, section in by_load.items()], figure == "p50")
        for figure in ("p50", "p95")
        for system in ("A", "B", "ours")
        if by_load
    ]
    throughput = {system: burst[f"{system} per s"] for system in ("A", "B", "ours") if burst}
    draw(path, title=title, throughput=throughput, latency=lines)


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="emoji-3d", help="of the catalogue (default: the one that ships with us)")
    parser.add_argument("--dir", type=Path, help="diffusers folder with the model's weights")
    parser.add_argument("--random-weights", choices=CATALOGUE_IDS, help="instead: the architecture, no weights needed")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--dtype", choices=("auto", *DTYPES), default="auto", help="of all systems")
    parser.add_argument("--threads", type=int, default=0, help="of a CPU (default: all cores)")
    parser.add_argument("--compile", action="store_true", help="let the engine compile its denoiser (CUDA)")
    parser.add_argument("--sizes", type=_positive, nargs="+", help="sides in px (default: the workload's four)")
    parser.add_argument("--requests", type=_positive, help="of a burst (default: 64)")
    parser.add_argument("--load-requests", type=_positive, help="at each load (default: 3 times as many)")
    parser.add_argument("--repeats", type=_positive, help="of everything but the loads (default: 3)")
    parser.add_argument("--loads", type=float, nargs="+", choices=LOADS, help="shares of A's capacity (default: all)")
    parser.add_argument("--scenarios", nargs="+", choices=SCENARIOS, help="default: all; matrix on CUDA only")
    parser.add_argument("--seed", type=int, default=1, help="of the workload")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_REQUESTS} requests, one repeat, one load: a look")
    parser.add_argument("--profile", action="store_true", help="print where the engine's time goes, measure nothing")
    parser.add_argument(
        "--engine", type=_setting, nargs="+", default=[], metavar="NAME=VALUE", help="engine settings to try"
    )
    parser.add_argument("--json", type=Path, default=Path(".darkroom/bench/engine.json"), help="report as JSON")
    parser.add_argument("--table", type=Path, help="as Markdown (default: beside the JSON)")
    parser.add_argument("--plot", type=Path, help="chart as PNG (default: beside the JSON)")
    parser.add_argument("--check", action="store_true", help="exit with 1 when an aim is missed, too")
    args = parser.parse_args(argv)
    args.requests = args.requests or (QUICK_REQUESTS if args.quick else 64)
    args.load_requests = args.load_requests or (1 if args.quick else 3) * args.requests
    args.repeats = args.repeats or (1 if args.quick else 3)
    args.loads = args.loads or (QUICK_LOADS if args.quick else LOADS)
    has_cuda = args.device != "cpu" and torch.cuda.is_available()
    args.scenarios = args.scenarios or (*DEFAULT_SCENARIOS, *(["matrix"] if has_cuda else []))
    return args


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not above 0")
    return value


def _setting(text: str) -> tuple[str, object]:
    name, separator, value = text.partition("=")
    if not separator:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return name, yaml.safe_load(value)


if __name__ == "__main__":
    sys.exit(main())
