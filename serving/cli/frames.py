"""`darkroom frames`: a video file in, the best of its stills and a contact sheet out."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from serving.cli.client import Client
from serving.cli.options import Key, Url, connect, tells_errors
from serving.cli.pictures import JobWatcher, await_result, keep, slug
from serving.cli.render import job_progress, say, show_table
from serving.cli.uploads import upload

FRAMES_DIR = Path("frames")
TIMEOUT_S = 1800.0

frames_app = typer.Typer()


@frames_app.command()
@tells_errors
def frames(
    ctx: typer.Context,
    video: Annotated[Path, typer.Argument(help="A video file.")],
    max_frames: Annotated[int | None, typer.Option(help="At most so many stills.")] = None,
    min_sharpness: Annotated[float | None, typer.Option(min=0, help="What is less sharp is blurry.")] = None,
    faces: Annotated[
        Literal["any", "prefer", "require"] | None, typer.Option(help="Whether stills should have a face.")
    ] = None,
    dedupe: Annotated[bool, typer.Option(help="Drop what looks the same as another still.")] = True,
    output_format: Annotated[
        Literal["jpeg", "png", "webp"] | None, typer.Option("--format", help="File format of the stills.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the stills and the contact sheet.")] = FRAMES_DIR,
    timeout_s: Annotated[float, typer.Option("--timeout", min=1, help="Seconds to wait for the job.")] = TIMEOUT_S,
    url: Url = None,
    key: Key = None,
) -> None:
    """Take the best stills out of a video; prints how many were kept, and how many dropped for which reason."""
    wanted = {"max_frames": max_frames, "min_sharpness": min_sharpness, "faces": faces, "output_format": output_format}
    body = {name: value for name, value in wanted.items() if value is not None} | {"dedupe": dedupe}
    with connect(ctx, url, key) as client, job_progress() as watch:
        upload_id = upload(client, video, "video", watch=watch)
        job = client.post("/v1/frames", {"upload_id": upload_id, **body})
        result = await_result(client, job, timeout_s=timeout_s, watch=watch)
        sheet = _save(client, result, slug(video.stem), out, watch)
    show_table(("stills", "number"), list(result["counts"].items()), empty="The video has no stills.")
    say(f"{len(result['frames'])} stills are in {out}; {sheet} shows them, and what was dropped.")


def _save(client: Client, result: Any, stem: str, out: Path, watch: JobWatcher) -> Path:  # noqa: ANN401  # JSON
    """Every still, named after its moment, and the contact sheet, whose path it returns."""
    stills = result["frames"]
    for number, still in enumerate(stills, 1):
        keep(client, still, out, f"{stem}-{still['time_s']:09.3f}s")
        watch({"status": "saving", "progress": 100 * number / len(stills)})
    sheet = {"url": result["contact_sheet_url"], "content_type": "image/jpeg"}
    return keep(client, sheet, out, f"{stem}-contact-sheet")
