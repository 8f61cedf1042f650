"""darkroom serve: from options to the supervisor."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from configs.settings import Settings
from serving.cli import app as cli
from serving.cli.serve import build_settings, first_picture


def _settings(**options: object) -> Settings:
    nothing = {"models": (), "model_dirs": (), "config": None, "host": None, "port": None, "state_dir": None, "env": {}}
    return build_settings(**{**nothing, **options})


def test_options_go_over_variables_over_the_file(tmp_path: Path) -> None:
    config = tmp_path / "mine.yaml"
    config.write_text("host: 127.0.0.2\nport: 1\nmodels: {enabled: [sdxl], default_image: sdxl, dirs: {sdxl: /a}}\n")
    env = {"DARKROOM_PORT": "2", "DARKROOM_HOST": "127.0.0.3"}
    settings = _settings(config=config, env=env, port=3, models=["emoji-3d"], model_dirs=["sdxl=/b"])
    assert (settings.host, settings.port) == ("127.0.0.3", 3)
    assert settings.models.enabled == ("emoji-3d",)
    assert settings.default_image_model == "emoji-3d"
    assert settings.models.dirs == {"sdxl": Path("/b")}


def test_serve_hands_its_settings_to_the_supervisor_and_ends_with_its_code(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[Settings, object]] = []

    def run(settings: Settings, *, first_picture: object) -> int:
        calls.append((settings, first_picture))
        return 3

    monkeypatch.setattr(cli.supervisor, "run", run)
    runner = CliRunner()
    assert runner.invoke(cli.app, ["serve", "--port", "8123", "--state-dir", "here"]).exit_code == 3
    assert runner.invoke(cli.app, ["serve", "--first-picture", "a red apple"]).exit_code == 3
    (plain, no_picture), (_, picture) = calls
    assert (plain.port, plain.state_dir, no_picture) == (8123, Path("here").resolve(), None)
    assert callable(picture)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--model", "dall-e"], "'dall-e' does not exist. Available: "),
        (["--model-dir", "dall-e=/x"], "'dall-e' does not exist. Available: "),
        (["--model-dir", "/x"], "expected MODEL=FOLDER"),
        (["--port", "0"], "port: "),
        (["--config", "missing.yaml"], "missing.yaml"),
    ],
)
def test_serve_refuses_what_it_cannot_start_with_one_line(args: list[str], words: str) -> None:
    result = CliRunner().invoke(cli.app, ["serve", *args])
    assert result.exit_code == 2
    assert words in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_the_first_picture_failing_is_said_and_leaves_the_server_alone(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        first_picture(_settings(port=holder.getsockname()[1]), "a red apple")()
    assert "The first picture could not be made: No Darkroom answers" in capsys.readouterr().err


def test_the_command_starts_without_torch_ray_or_a_database_driver() -> None:
    code = "import serving.cli, sys; print(*sorted({'torch', 'ray', 'pymongo', 'diffusers'} & set(sys.modules)))"
    root = Path(cli.__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout.strip()) == (0, "")
