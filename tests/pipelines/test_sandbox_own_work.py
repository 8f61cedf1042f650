"""Work of our own in the sandbox: given more than what somebody else's file gets, and its session gives way."""

import os
import resource
from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.sandbox import Bounds
from tests.pipelines.test_sandbox import BOUNDS, run


async def test_work_of_our_own_may_be_given_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    bounds = Bounds(
        wall_s=20,
        memory_bytes=None,
        file_bytes=None,
        max_open_files=200,
        niceness=15,
        environment={"OMP_NUM_THREADS": "4", "OMP_WAIT_POLICY": "PASSIVE"},
    )
    found = await run("describe", bounds=bounds, folder=str(tmp_path))
    unbound = {name: resource.getrlimit(getattr(resource, f"RLIMIT_{name}"))[0] for name in ("AS", "FSIZE")}
    assert {name: found["limits"][name] for name in unbound} == unbound
    assert (found["limits"]["NOFILE"], found["limits"]["CORE"]) == (200, 0)
    assert found["niceness"] == min(19, os.nice(0) + 15)
    assert (found["environment"]["OMP_NUM_THREADS"], found["environment"]["OMP_WAIT_POLICY"]) == ("4", "PASSIVE")
    assert (found["environment"]["TMPDIR"], "secret" in str(found["environment"])) == (str(tmp_path), False)


@pytest.mark.parametrize("niceness", [0, 13])
async def test_its_session_gives_way_where_the_kernel_shares_its_time_between_sessions(niceness: int) -> None:
    found = await run("describe", bounds=replace(BOUNDS, session_niceness=niceness))
    assert found["autogroup"] is None or found["autogroup"].endswith(f"nice {niceness}")
