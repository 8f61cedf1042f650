"""The application on Ray under its keeper's eyes: what dies while a probe is on its way ends no server."""

import asyncio
import time
from io import StringIO
from pathlib import Path

import httpx
import pytest
from rich.console import Console

from configs.settings import Settings
from serving.embedded import deployment
from serving.embedded.children import Child, ChildSpec
from serving.embedded.deployment import Deployment
from serving.embedded.plan import effective_settings, make_plan
from serving.embedded.screen import Screen
from serving.embedded.state import RunFile, StateDir


async def _yes() -> bool:
    return True


async def test_ray_may_die_while_the_api_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The keeper asks on until Ray is back, and only then counts the seconds before it deploys again."""
    monkeypatch.setattr(deployment, "API_POLL_S", 0.01)
    monkeypatch.setattr(deployment, "RESTORE_TIMEOUT_S", 0.2)
    monkeypatch.setattr(deployment, "AGAIN_AFTER_S", 60.0)
    state = StateDir(tmp_path)
    state.hold()
    num_asked = 0
    ray: Child

    def answer(request: httpx.Request) -> httpx.Response:
        nonlocal num_asked
        num_asked += 1
        if num_asked == 1:
            ray.ready_since_s = None  # it died just now, and the API with it
        raise httpx.ConnectError("nobody listens", request=request)

    said = StringIO()
    try:
        async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as client:
            plan = make_plan(effective_settings(Settings(state_dir=tmp_path)), state, client)
            screen = Screen(Console(file=said))
            run = RunFile(state)
            spec = ChildSpec("ray", ("true",), {}, tmp_path / "ray.log", is_ready=_yes, is_alive=_yes)
            ray = Child(spec, run=run, notice=screen.notice)
            ray.ready_since_s = time.monotonic()
            kept = asyncio.create_task(Deployment(plan, run, screen, client, ("/bin/false",)).keep(ray))
            await asyncio.sleep(0.1)
            assert not kept.done(), kept.exception()
            assert num_asked == 1, "Ray is away: there is nothing to ask"
            ray.ready_since_s = time.monotonic()
            async with asyncio.timeout(30.0):
                while "Deploying failed" not in said.getvalue():
                    assert not kept.done(), kept.exception()
                    await asyncio.sleep(0.02)
            kept.cancel()
            await asyncio.gather(kept, return_exceptions=True)
    finally:
        state.release()
    assert "the API has not come back by itself" in said.getvalue()
