"""Pictures per second of the classifier that the settings name: by batch, from pixels alone and from files.

In this process, without Ray: what one Moderator replica can do at most. `from pixels` is the classifier alone, with
pictures in the size it takes; `from files` reads and shrinks them before, in as many threads as the replica does.
"""

import io
import json
import os
import platform
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import typer
from PIL import Image, ImageDraw
from rich.console import Console
from rich.table import Table

from configs.settings import SettingsError, load_settings
from pipelines.moderation.classifier import Classifier, ClassifierError, load_classifier
from pipelines.moderation.opening import open_to_look
from serving.replicas.moderator import NUM_READERS

BATCHES = (1, 8, 32)
PACKAGES = ("onnxruntime", "pillow", "torch", "transformers")
NUM_SHAPES = 60


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the report."""

    what: str
    batch: int
    num_pictures: int
    pictures_per_s: float
    ms_per_batch: float


def measure(classifier: Classifier, files: list[bytes], batch: int, *, seconds: float) -> list[Row]:
    """Both figures of one batch size."""

    def read(data: bytes) -> Image.Image:
        return classifier.shrink(open_to_look(data))

    with ThreadPoolExecutor(NUM_READERS) as readers:
        chosen = [files[index % len(files)] for index in range(batch)]
        small = list(readers.map(read, chosen))
        return [
            timed("from pixels", batch, lambda: classifier.look(small), seconds=seconds),
            timed("from files", batch, lambda: classifier.look(list(readers.map(read, chosen))), seconds=seconds),
        ]


def timed(what: str, batch: int, look: Callable[[], object], *, seconds: float) -> Row:
    """As many whole batches as fit into the time, after one that is not counted; never fewer than two."""
    look()
    num_batches, started = 0, time.perf_counter()
    while (spent_s := time.perf_counter() - started) < seconds or num_batches < 2:
        look()
        num_batches += 1
    spent_s = time.perf_counter() - started
    num_pictures = num_batches * batch
    return Row(what, batch, num_pictures, round(num_pictures / spent_s, 1), round(1_000 * spent_s / num_batches, 1))


def make_file(seed: int, *, side_px: int, format: Literal["jpeg", "png"]) -> bytes:
    """Shapes on a gradient with some grain: as hard to pack as a photograph, and the same every time."""
    rng = np.random.default_rng(seed)
    picture = Image.linear_gradient("L").resize((side_px, side_px)).convert("RGB")
    draw = ImageDraw.Draw(picture)
    for _ in range(NUM_SHAPES):
        x, y, radius = (int(part) for part in rng.integers(0, side_px, 3))
        colour = tuple(int(part) for part in rng.integers(0, 256, 3))
        draw.ellipse((x - radius // 4, y - radius // 4, x + radius // 4, y + radius // 4), fill=colour)
    grain = rng.normal(0, 6, (side_px, side_px, 3))
    pixels = np.clip(np.asarray(picture) + grain, 0, 255).astype(np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, format, **({"quality": 90} if format == "jpeg" else {}))
    return out.getvalue()


def main(
    seconds: Annotated[float, typer.Option(min=0.01, help="for each figure")] = 5.0,
    side: Annotated[int, typer.Option(min=16, max=8_192, help="of the pictures, in pixels")] = 1_024,
    format: Annotated[Literal["jpeg", "png"], typer.Option(help="of the files")] = "png",
    threads: Annotated[int | None, typer.Option(min=0, help="CPU threads, instead of the settings'; 0: all")] = None,
    json_path: Annotated[Path | None, typer.Option("--json", help="figures as JSON")] = None,
) -> None:
    """Measure the classifier of the settings (DARKROOM_CONFIG); print a table, and keep it as JSON if told where."""
    try:
        settings = load_settings().moderation
        if threads is not None:
            settings = settings.model_copy(update={"num_threads": threads})
        classifier = load_classifier(settings)
    except (SettingsError, ClassifierError) as error:
        typer.echo(f"bench_moderation: {error}", err=True)
        raise typer.Exit(1) from error
    files = [make_file(seed, side_px=side, format=format) for seed in range(8)]
    rows = [row for batch in BATCHES for row in measure(classifier, files, batch, seconds=seconds)]
    about = {
        "classifier": classifier.name,
        "pictures": f"{side}x{side} {format}",
        "threads": settings.num_threads or len(os.sched_getaffinity(0)),
        "machine": f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores",
        "taken": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {name: version(name) for name in PACKAGES},
    }
    if json_path is not None:
        json_path.parent.mkdir(parents=True, exist_ok=True)
        json_path.write_text(json.dumps(about | {"rows": [asdict(row) for row in rows]}, indent=1) + "\n", "utf-8")
    show(about, rows)


def show(about: dict[str, object], rows: list[Row]) -> None:
    table = Table(title=f"{about['classifier']}: {about['pictures']}, {about['machine']}, {about['threads']} threads")
    for column in ("what", "batch", "pictures", "pictures/s", "ms/batch"):
        table.add_column(column, justify="left" if column == "what" else "right")
    for row in rows:
        table.add_row(*(str(value) for value in asdict(row).values()))
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
