"""scripts/fetch_weights.py: what it prints, and how it fails."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from configs.settings import PROJECT_DIR
from models.weights import hash_folder


def run(*arguments: str, state_dir: Path, config: str = "{}") -> subprocess.CompletedProcess[str]:
    config_path = state_dir / "config.yaml"
    config_path.write_text(config)
    env = os.environ | {
        "DARKROOM_CONFIG": str(config_path),
        "DARKROOM_STATE_DIR": str(state_dir),
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": str(PROJECT_DIR),
    }
    command = [sys.executable, str(PROJECT_DIR / "scripts" / "fetch_weights.py"), *arguments]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, check=False)


def test_a_local_folder_is_checked_and_its_hash_printed(tiny_sd: Path, tmp_path: Path) -> None:
    done = run("--model", "sd15", state_dir=tmp_path, config=f"models:\n  dirs:\n    sd15: {tiny_sd}\n")
    assert done.returncode == 0, done.stderr
    assert str(tiny_sd) in done.stdout
    assert hash_folder(tiny_sd) in done.stdout


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--model", "dall-e-9"], "'dall-e-9' does not exist. Available: emoji-3d"),
        (["--model", "sdxl"], "models.dirs.sdxl"),
        (["--model", "sdxl", "--to", "elsewhere"], "the hub cannot be reached"),
    ],
)
def test_what_cannot_be_fetched_is_said_in_one_line(arguments: list[str], sentence: str, tmp_path: Path) -> None:
    arguments = [str(tmp_path / a) if a == "elsewhere" else a for a in arguments]
    done = run(*arguments, state_dir=tmp_path)
    assert done.returncode == 1
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr


def test_a_folder_of_the_wrong_family_is_refused(tiny_sd: Path, tmp_path: Path) -> None:
    done = run("--model", "sdxl", state_dir=tmp_path, config=f"models:\n  dirs:\n    sdxl: {tiny_sd}\n")
    assert done.returncode == 1
    assert "needs a StableDiffusionXLPipeline" in done.stderr
