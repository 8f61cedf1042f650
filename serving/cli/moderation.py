"""`darkroom moderate`: what the server thinks of a picture, a prompt, or both together."""

import base64
import mimetypes
from pathlib import Path
from typing import Annotated, Any

import typer

from serving.cli.client import ClientError
from serving.cli.options import Key, Url, connect, tells_errors
from serving.cli.render import say, show_table

moderation_app = typer.Typer()


@moderation_app.command()
@tells_errors
def moderate(
    ctx: typer.Context,
    picture: Annotated[Path | None, typer.Argument(help="PNG, JPEG, WebP or GIF.")] = None,
    text: Annotated[str | None, typer.Option(help="A prompt; with a picture both are judged together.")] = None,
    url: Url = None,
    key: Key = None,
) -> None:
    """Score a picture or a prompt by category, and say whether it reaches your tenant's thresholds."""
    if picture is None and text is None:
        raise typer.BadParameter("name a picture, or a prompt with --text")
    parts: list[dict[str, Any]] = [] if text is None else [{"type": "text", "text": text}]
    if picture is not None:
        parts.append({"type": "image_url", "image_url": {"url": _data_uri(picture)}})
    with connect(ctx, url, key) as client:
        (result,) = client.post("/v1/moderations", {"input": parts})["results"]
    rows = [
        (category, f"{score:.4f}", result["categories"][category])
        for category, score in result["category_scores"].items()
    ]
    show_table(("category", "score", "flagged"), rows, empty="Nothing was judged.")
    say("Flagged." if result["flagged"] else "Not flagged.")


def _data_uri(path: Path) -> str:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ClientError(f"The file cannot be read: {error}.") from error
    content_type = mimetypes.guess_type(path.name)[0] or ""
    # What it is the server finds out; the address only has to say that it is meant as a picture.
    content_type = content_type if content_type.startswith("image/") else "image/png"
    return f"data:{content_type};base64,{base64.b64encode(data).decode()}"
