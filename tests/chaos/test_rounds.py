"""Nothing accepted is lost: the suite that kills everything, against a whole server. A short run, and a slow one."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from configs.settings import PROJECT_DIR

FAULTS = "engine,router,mongo,router-frozen"  # the last wakes up when its leases are long gone


def run_chaos(report: Path, *options: str, timeout_s: float) -> dict:
    command = (sys.executable, str(PROJECT_DIR / "scripts/chaos.py"), "--json", str(report), *options)
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s)
    assert done.returncode == 0, f"{done.stdout[-6000:]}\n{done.stderr[-3000:]}"
    return json.loads(report.read_text())


@pytest.mark.cluster
@pytest.mark.timeout(600)
def test_an_engine_a_router_and_the_database_die_a_router_freezes_and_nothing_is_lost_or_doubled(
    tmp_path: Path,
) -> None:
    options = ("--faults", FAULTS, "--in-order", "--pairs", "0", "--rounds", "4", "--jobs", "60")
    told = run_chaos(tmp_path / "report.json", *options, "--window", "5", timeout_s=580)
    assert [r["faults"] for r in told["rounds"]] == [[fault] for fault in FAULTS.split(",")]
    assert (told["lost"], told["doubled"], told["wrong"]) == (0, 0, 0)
    assert told["num_accepted"] >= 40
    assert told["num_pictures"] >= 35, "what is not looked at cannot be found wrong"
    assert told["num_webhooks"] >= 40
    assert all(r["service_s"] is not None for r in told["rounds"])


@pytest.mark.long
@pytest.mark.cluster
@pytest.mark.timeout(2_400)
@pytest.mark.parametrize("options", [("--rounds", "14"), ("--rounds", "8", "--external")], ids=["embedded", "external"])
def test_whatever_breaks_nothing_is_lost_or_doubled(tmp_path: Path, options: tuple[str, ...]) -> None:
    told = run_chaos(tmp_path / "report.json", *options, "--jobs", "400", "--window", "8", timeout_s=2_380)
    assert (told["lost"], told["doubled"], told["wrong"]) == (0, 0, 0)
    assert told["num_accepted"] >= 300
