"""A job told as it happens, over as many connections as it takes. Knows the stream of events, and no kind of job."""

import json
import time
from collections.abc import Iterator, Mapping
from typing import Any

from serving.cli.client import Client, ClientError, Refused, Unreachable, segment
from serving.cli.pictures import ENDED, LOST_S, JobWatcher, StillRunning, may_pass

SILENCE_S = 60.0  # the server says that it is there four times as often
PAUSE_S = 1.0


def follow_closely(
    client: Client, accepted: Mapping[str, Any], *, timeout_s: float, watch: JobWatcher
) -> Mapping[str, Any]:
    """The job once it ended; `watch` sees each step that is told. A server that is away for a while is waited for."""
    job_id = str(accepted["id"])
    ends_at = time.monotonic() + timeout_s
    last_heard = time.monotonic()
    job = dict(accepted)
    while True:
        try:
            for job in _standings(client, job_id):
                last_heard = time.monotonic()
                watch(job)
                if job["status"] in ENDED:
                    return job
                if last_heard >= ends_at:
                    break
        except (Unreachable, Refused) as error:
            if not may_pass(error) or time.monotonic() - last_heard > LOST_S:
                raise StillRunning(job_id, str(error)) from error
        if time.monotonic() >= ends_at:
            raise StillRunning(job_id, f"Waited {timeout_s:.0f} s.")
        time.sleep(PAUSE_S)


def _standings(client: Client, job_id: str) -> Iterator[dict[str, Any]]:
    """The job as it is asked for first, and then after each event; until its end, or that of the connection."""
    path = f"/v1/jobs/{segment(job_id)}"
    job = client.get(path)
    yield job
    if job["status"] in ENDED:
        return
    with client.lines(f"{path}/events", silence_s=SILENCE_S) as lines:
        for name, data in read_events(lines):
            if name == "error":
                raise Unreachable(str(data["error"]["message"]))
            if name == "progress" and (data.get("stage") or data["progress"]):
                data["status"] = "running"
            if name != "preview":
                job = {**job, **data}
            # Also after a preview, and after what only says that the server is there: the caller looks at the clock.
            yield job


def read_events(lines: Iterator[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Name and data of each server-sent event; of a comment, which keeps the line alive, an empty name."""
    name, data = "", ""
    for line in lines:
        field, _, value = line.partition(":")
        match field, line:
            case "event", _:
                name = value.removeprefix(" ")
            case "data", _:
                data += value.removeprefix(" ")
            case _, "" if data:
                yield name, _parsed(data)
                name, data = "", ""
            case "", _ if line:
                yield "", {}


def _parsed(data: str) -> dict[str, Any]:
    try:
        parsed: dict[str, Any] = json.loads(data)
    except json.JSONDecodeError as error:
        raise ClientError("The server's stream of events is no JSON.") from error
    return parsed
