"""`darkroom tenants`: who has data and keys here, and the settings of each. Knows no settings but by their names."""

from enum import StrEnum
from typing import Annotated, Literal

import typer

from serving.cli.client import segment
from serving.cli.options import Key, Url, connect, tells_errors
from serving.cli.render import show_fields, show_table, when

tenants_app = typer.Typer(no_args_is_help=True, help="Tenants (needs an admin key).")


class TenantSetting(StrEnum):
    """As the API names them."""

    KEEP_JOBS_S = "keep_jobs_s"
    MAY_USE_HIGH_PRIORITY = "may_use_high_priority"
    MAX_QUEUED = "max_queued"
    MAX_IMAGE_BYTES = "max_image_bytes"
    MAX_VIDEO_BYTES = "max_video_bytes"
    MAX_VIDEO_S = "max_video_s"
    MAX_STORED_BYTES = "max_stored_bytes"
    MODERATION_ACTION = "moderation_action"
    SEXUAL_THRESHOLD = "sexual_threshold"
    MINORS_THRESHOLD = "minors_threshold"


@tenants_app.command("list")
@tells_errors
def list_tenants(ctx: typer.Context, url: Url = None, key: Key = None) -> None:
    """All tenants."""
    with connect(ctx, url, key) as client:
        data = client.get("/v1/admin/tenants")["data"]
    rows = [(t["id"], t.get("name"), when(t.get("created_at"))) for t in data]
    show_table(("id", "name", "created"), rows, empty="No tenants.")


@tenants_app.command("create")
@tells_errors
def create_tenant(
    ctx: typer.Context,
    tenant_id: Annotated[str, typer.Argument(metavar="ID", help="Short name; part of every object's path.")],
    name: Annotated[str | None, typer.Option(help="Name for people.")] = None,
    url: Url = None,
    key: Key = None,
) -> None:
    """Make a tenant; give it a key with `darkroom keys create NAME --tenant ID`."""
    body = {"id": tenant_id} | ({"name": name} if name else {})
    with connect(ctx, url, key) as client:
        made = client.post("/v1/admin/tenants", body)
    typer.echo(str(made["id"]))


@tenants_app.command("change")
@tells_errors
def change_tenant(
    ctx: typer.Context,
    tenant_id: Annotated[str, typer.Argument(metavar="ID", help="As `darkroom tenants list` shows it.")],
    keep_jobs_s: Annotated[float | None, typer.Option(help="Seconds until an ended job is deleted.")] = None,
    may_use_high_priority: Annotated[
        bool | None, typer.Option("--high-priority/--no-high-priority", help="For its members too, not only admins.")
    ] = None,
    max_queued: Annotated[int | None, typer.Option(help="Jobs that may wait at once.")] = None,
    max_image_bytes: Annotated[int | None, typer.Option(help="Of one uploaded picture.")] = None,
    max_video_bytes: Annotated[int | None, typer.Option(help="Of one uploaded video.")] = None,
    max_video_s: Annotated[float | None, typer.Option(help="Duration of an uploaded video.")] = None,
    max_stored_bytes: Annotated[int | None, typer.Option(help="All uploads together.")] = None,
    moderation_action: Annotated[
        Literal["block", "blur", "flag", "off"] | None, typer.Option(help="What is done about what is flagged.")
    ] = None,
    sexual_threshold: Annotated[float | None, typer.Option(help="0 to 1: flagged from this score on.")] = None,
    minors_threshold: Annotated[float | None, typer.Option(help="The same, for prompts about minors.")] = None,
    reset: Annotated[list[TenantSetting] | None, typer.Option(help="Back to the server's default; repeatable.")] = None,
    url: Url = None,
    key: Key = None,
) -> None:
    """Change settings of a tenant and show what it has; what is not named stays."""
    named: dict[str, object] = {
        "keep_jobs_s": keep_jobs_s,
        "may_use_high_priority": may_use_high_priority,
        "max_queued": max_queued,
        "max_image_bytes": max_image_bytes,
        "max_video_bytes": max_video_bytes,
        "max_video_s": max_video_s,
        "max_stored_bytes": max_stored_bytes,
        "moderation_action": moderation_action,
        "sexual_threshold": sexual_threshold,
        "minors_threshold": minors_threshold,
    }
    body = {name: value for name, value in named.items() if value is not None} | dict.fromkeys(reset or ())
    with connect(ctx, url, key) as client:
        show_fields(client.patch(f"/v1/admin/tenants/{segment(tenant_id)}", body))
