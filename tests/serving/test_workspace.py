"""Rooms are gone when the work is over, and those of killed processes when the next one begins."""

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from serving.workspace import Workspace
from tests.serving.house import eventually

HOLDER = """
import sys, time
from pathlib import Path
from serving.workspace import Workspace

workspace = Workspace(Path(sys.argv[1]))
(workspace.path / "video").write_bytes(b"left behind")
print("here", flush=True)
time.sleep(60)
"""


async def test_a_room_is_gone_after_success_and_failure(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "work")
    async with workspace.room() as folder:
        (folder / "deep").mkdir()
        (folder / "deep" / "still.jpg").write_bytes(b"x")
    with pytest.raises(ValueError, match="at work"):
        async with workspace.room() as folder:
            raise ValueError("at work")
    assert list(workspace.path.iterdir()) == []
    workspace.close()
    assert list((tmp_path / "work").iterdir()) == []


async def test_a_room_is_gone_when_the_work_is_cancelled(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)

    async def work() -> None:
        async with workspace.room() as folder:
            (folder / "video").write_bytes(b"x")
            await asyncio.sleep(60)

    task = asyncio.create_task(work())
    await eventually(lambda: any(workspace.path.iterdir()))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert list(workspace.path.iterdir()) == []


def test_what_a_killed_process_left_goes_and_what_a_living_one_has_stays(tmp_path: Path) -> None:
    holders = [
        subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE) for _ in range(2)
    ]
    try:
        for holder in holders:
            assert holder.stdout is not None and holder.stdout.readline() == b"here\n"
        assert len(list(tmp_path.glob("*/video"))) == 2
        holders[0].kill()
        holders[0].wait()
        workspace = Workspace(tmp_path)
        assert len(list(tmp_path.glob("*/video"))) == 1
        assert len(list(tmp_path.iterdir())) == 2
        workspace.close()
    finally:
        for holder in holders:
            holder.kill()
            holder.wait()
            assert holder.stdout is not None
            holder.stdout.close()
