"""`darkroom jobs`, `darkroom cancel` and `darkroom retry`: what became of one's requests."""

from typing import Annotated, Any

import typer

from serving.cli.client import Refused, segment
from serving.cli.options import EXIT_FAILED, Key, Url, connect, tells_errors
from serving.cli.render import describe, say, show_fields, show_table, when

MAX_PROMPT_CHARS, MAX_MESSAGE_CHARS = 60, 80
COLUMNS = ("id", "status", "%", "kind", "model", "created", "prompt")
FAILED_COLUMNS = ("id", "failed", "attempts", "model", "code", "message")

JobId = Annotated[str, typer.Argument(metavar="ID", help="As `darkroom jobs` shows it.")]

jobs_app = typer.Typer()


@jobs_app.command()
@tells_errors
def jobs(
    ctx: typer.Context,
    job_id: Annotated[str | None, typer.Argument(metavar="[ID]", help="One job in full; none: the newest.")] = None,
    status: Annotated[
        str | None, typer.Option(help="queued, running, succeeded, failed (shows why) or cancelled.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many.")] = 20,
    url: Url = None,
    key: Key = None,
) -> None:
    """Recent jobs, or one of them."""
    with connect(ctx, url, key) as client:
        if job_id is not None:
            show_fields(_job_fields(client.get(f"/v1/jobs/{segment(job_id)}")))
            return
        data = client.get("/v1/jobs", status=status, limit=limit)["data"]
    if status == "failed":
        show_table(FAILED_COLUMNS, [_failed_row(job) for job in data], empty="No failed jobs.")
    else:
        show_table(COLUMNS, [_job_row(job) for job in data], empty="No jobs.")


@jobs_app.command()
@tells_errors
def cancel(ctx: typer.Context, job_id: JobId, url: Url = None, key: Key = None) -> None:
    """Call off a job that waits or runs; prints its status."""
    with connect(ctx, url, key) as client:
        job = client.post(f"/v1/jobs/{segment(job_id)}/cancel")
    typer.echo(describe(job))


@jobs_app.command()
@tells_errors
def retry(
    ctx: typer.Context,
    job_ids: Annotated[list[str], typer.Argument(metavar="ID…", help="Failed jobs, as `darkroom jobs` shows them.")],
    url: Url = None,
    key: Key = None,
) -> None:
    """Have failed jobs tried again; prints the id of each that waits again."""
    num_refused = 0
    with connect(ctx, url, key) as client:
        for job_id in job_ids:
            try:
                typer.echo(str(client.post(f"/v1/jobs/{segment(job_id)}/retry")["id"]))
            except Refused as error:
                num_refused += 1
                say(f"{job_id}: {error}")
    if num_refused:
        raise typer.Exit(EXIT_FAILED)


def failure_of(job: dict[str, Any]) -> tuple[str, str]:
    """Code and message of a failed job."""
    error = job.get("error") or {}
    return str(error.get("code", "")), str(error.get("message", ""))


def _job_row(job: dict[str, Any]) -> tuple[object, ...]:
    request = job.get("request") or {}
    prompt = str(request.get("prompt") or request.get("trigger") or "")
    return (
        job["id"],
        describe(job),
        job.get("progress"),
        job.get("kind"),
        job.get("model"),
        when(job.get("created_at")),
        shorten(prompt, MAX_PROMPT_CHARS),
    )


def _failed_row(job: dict[str, Any]) -> tuple[object, ...]:
    code, message = failure_of(job)
    failed_at = when(job.get("finished_at"))
    return job["id"], failed_at, job.get("attempts"), job.get("model"), code, shorten(message, MAX_MESSAGE_CHARS)


def _job_fields(job: dict[str, Any]) -> dict[str, object]:
    """The job flattened to what a person asks about; the request's own fields follow."""
    result = job.get("result") or {}
    names = ("id", "kind", "status", "progress", "stage", "loss", "queue_position", "eta_s")
    fields: dict[str, object] = {name: job.get(name) for name in names}
    fields |= {name: when(job.get(name)) for name in ("created_at", "started_at", "finished_at", "expires_at")}
    fields |= {name: job.get(name) for name in ("attempts", "priority", "model", "backend", "webhook_url")}
    fields["error"] = ": ".join(part for part in failure_of(job) if part)
    for attempt in job.get("history") or ():
        fields[f"attempt.{attempt['number']}"] = f"{attempt['code']}: {attempt['message']}"
    request = {name: value for name, value in (job.get("request") or {}).items() if name != "recipe_values"}
    fields |= {f"request.{name}": value for name, value in request.items()}
    fields |= {f"image.{number}": image.get("url") for number, image in enumerate(result.get("images", ()), 1)}
    fields["adapter"] = result.get("adapter")
    return fields


def shorten(text: str, max_chars: int) -> str:
    """The text, its end replaced by … where it is too long."""
    return text if len(text) <= max_chars else text[: max_chars - 1] + "…"
