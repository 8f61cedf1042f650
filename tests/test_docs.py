"""What the project says about itself is true: commands, paths, links, variables, container image, compose file."""

import ast
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer
import yaml

from configs.settings import ENV_KEYS, OTHER_ENV_KEYS, PROJECT_DIR, Settings
from serving.cli.app import app

DOCS = ("README.md", "CONTRIBUTING.md", "docs/decisions.md")
ROOMS = ("configs", "models", "pipelines", "training", "serving")
# What the repository does not hold though the folder may.
NOT_OURS = {"__pycache__", "node_modules", "build", "dist", "pictures"}


def text_of(name: str) -> str:
    return (PROJECT_DIR / name).read_text("utf-8")


def blocks(name: str, language: str) -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```", text_of(name), flags=re.MULTILINE | re.DOTALL)
    return [block for fence, block in found if fence == language]


def shell_lines() -> list[str]:
    """Every command line that the documents show: in shell blocks, comments cut off, and in backticks."""
    lines: list[str] = []
    for name in DOCS:
        for block in blocks(name, "sh"):
            lines += block.replace("\\\n", " ").splitlines()
        lines += re.findall(r"`((?:darkroom|make|scripts/)[^`\n]*)`", text_of(name))
    lines += re.findall(r"IMAGE +(darkroom .*?)  ", text_of("Dockerfile.gpu"))
    return lines


def commands_of(program: str) -> list[list[str]]:
    found = [shlex.split(line, comments=True) for line in shell_lines() if line.startswith(program + " ")]
    assert found, f"the documents show no {program} command"
    return found


# --- commands


@pytest.mark.parametrize("words", commands_of("darkroom"), ids=" ".join)
def test_every_darkroom_command_in_the_documents_exists_with_its_options(words: list[str]) -> None:
    command = typer.main.get_command(app)
    rest = words[1:]
    while hasattr(command, "commands") and rest:
        assert rest[0] in command.commands, f"there is no `darkroom {' '.join(words[1:])}`"
        command, rest = command.commands[rest[0]], rest[1:]
    options = {option for parameter in command.params for option in parameter.opts}
    for word in rest:
        if word.startswith("--"):
            assert word in options, f"`{' '.join(words)}`: no option {word}"


@pytest.mark.parametrize("target", sorted({words[1] for words in commands_of("make")}))
def test_every_make_target_in_the_documents_exists(target: str) -> None:
    assert re.search(rf"^{target}:", text_of("Makefile"), flags=re.MULTILINE)


def test_the_openai_example_is_python_and_the_curl_bodies_are_json() -> None:
    for block in blocks("README.md", "python"):
        ast.parse(block)
    bodies = re.findall(r"-d '(.*?)'", text_of("README.md"))
    assert [json.loads(body)["prompt"] for body in bodies]


def test_the_serving_bench_answers_help_without_a_server() -> None:
    bench = [sys.executable, "scripts/bench_serving.py", "--help"]
    done = subprocess.run(bench, cwd=PROJECT_DIR, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "--concurrency" in done.stdout


# --- the tree


def tree_paths() -> list[str]:
    """The paths of the README's tree, each line's parents put before it."""
    block = next(b for b in blocks("README.md", "") if b.startswith("configs/"))
    paths: list[str] = []
    parent = ""
    for line in block.splitlines():
        name = line.split()[0]
        if not line.startswith(" "):
            parent = name if name.endswith("/") else ""
            paths.append(name)
        else:
            paths.append(parent + name)
    return paths


def is_ours(path: Path) -> bool:
    return not path.name.startswith((".", "_")) and path.name not in NOT_OURS and path.suffix != ".egg-info"


@pytest.mark.parametrize("path", tree_paths())
def test_every_path_in_the_tree_exists_as_what_it_is_shown_as(path: str) -> None:
    assert (PROJECT_DIR / path).exists()
    assert (PROJECT_DIR / path).is_dir() == path.endswith("/")


def test_the_tree_leaves_out_no_room_and_no_folder_in_a_room() -> None:
    shown = set(tree_paths())
    folders = [f"{p.name}/" for p in PROJECT_DIR.iterdir() if p.is_dir() and is_ours(p)]
    for room in ROOMS:
        inside = [p for p in (PROJECT_DIR / room).iterdir() if p.is_dir() and is_ours(p)]
        folders += [f"{room}/{p.name}/" for p in inside if any(f.is_file() for f in p.rglob("*"))]
    assert sorted(set(folders) - shown) == []


# --- links, paths, variables


@pytest.mark.parametrize("name", DOCS)
def test_links_and_named_paths_lead_somewhere(name: str) -> None:
    text = text_of(name)
    links = [link for link in re.findall(r"\]\(([^)#]+)", text) if not link.startswith("http")]
    broken = [link for link in links if not ((PROJECT_DIR / name).parent / link).exists()]
    rooms = "|".join((*ROOMS, "scripts", "tests", "docs"))
    named = re.findall(rf"`((?:{rooms})/[\w./-]*)`", text)
    assert broken + [path for path in named if not (PROJECT_DIR / path).exists()] == []


@pytest.mark.parametrize("name", [*DOCS, "Dockerfile.gpu", "configs/deploy/compose.yaml"])
def test_every_variable_named_is_one_that_settings_know(name: str) -> None:
    # In the compose file ${NAME} is the reader's own; what counts is what the container gets.
    named = set(re.findall(r"DARKROOM_[A-Z0-9_]*[A-Z0-9]", text_of(name)))
    assert sorted(named - ENV_KEYS.keys() - OTHER_ENV_KEYS - {"DARKROOM_S3"}) == []


def test_the_defaults_in_the_readme_are_the_defaults() -> None:
    readme, settings = text_of("README.md"), Settings()
    assert f"| `{settings.host}`, `{settings.port}` |" in readme
    assert f"| databases, keys, caches | `{settings.state_dir}` |" in readme
    assert f"http://{settings.host}:{settings.port}/docs" in readme


# --- the container image


def instructions() -> list[tuple[str, str]]:
    """Dockerfile.gpu as (INSTRUCTION, the rest), continued lines joined."""
    lines = [line for line in text_of("Dockerfile.gpu").splitlines() if not line.startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [
        (word, " ".join(rest.split()))
        for word, _, rest in (line.partition(" ") for line in joined.splitlines())
        if word
    ]


def test_the_image_runs_as_nobody_special_and_is_healthy_only_when_ready() -> None:
    steps = instructions()
    users = [rest for word, rest in steps if word == "USER"]
    assert users
    assert not users[-1].startswith(("0", "root"))
    [health] = [rest for word, rest in steps if word == "HEALTHCHECK"]
    assert "/health/ready" in health
    assert ("EXPOSE", str(Settings().port)) in steps


def test_the_image_installs_as_make_run_does_on_a_fixed_cuda_runtime() -> None:
    steps = instructions()
    [base] = [rest for word, rest in steps if word == "FROM"]
    assert re.fullmatch(r"nvidia/cuda:\d+\.\d+\.\d+-runtime-ubuntu\d\d\.04", base)
    runs = " ".join(rest for word, rest in steps if word == "RUN")
    assert "make install" in runs
    assert "pip install" not in runs


def test_the_image_starts_the_server_and_any_other_command_is_its_own_role() -> None:
    steps = dict(instructions())
    assert json.loads(steps["ENTRYPOINT"]) == ["/usr/bin/tini", "--"]
    assert json.loads(steps["CMD"]) == ["darkroom", "serve"]


def test_no_state_and_no_secret_gets_into_the_image() -> None:
    ignored = set(text_of(".dockerignore").splitlines())
    assert {".git", ".venv", ".darkroom", "pictures", "**/.env*"} <= ignored
    # What the install reads must be there.
    assert not {"README.md", "pyproject.toml", "constraints.txt", "Makefile", "configs", "models"} & ignored


def test_hadolint_has_nothing_to_say() -> None:
    hadolint = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which("hadolint")
    if hadolint is None:
        pytest.skip("hadolint is not installed; the structural checks above still ran")
    done = subprocess.run([hadolint, "Dockerfile.gpu"], cwd=PROJECT_DIR, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "")


# --- the compose file


@pytest.fixture(scope="module")
def services() -> dict[str, dict]:
    return yaml.safe_load(text_of("configs/deploy/compose.yaml"))["services"]


def test_compose_publishes_on_loopback_alone_and_pins_every_image(services: dict[str, dict]) -> None:
    for name, service in services.items():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), name
        assert ":" in service["image"], name
        assert not service["image"].endswith(":latest"), name


def test_compose_gives_no_secret_a_default(services: dict[str, dict]) -> None:
    for service in services.values():
        for variable, value in service.get("environment", {}).items():
            if re.search(r"ADMIN_KEY|PASSWORD|SECRET", variable):
                assert re.fullmatch(r"\$\{[A-Z_0-9]+:\?.+\}", value), variable


def test_compose_names_files_and_services_that_exist(services: dict[str, dict]) -> None:
    folder = PROJECT_DIR / "configs/deploy"
    build = services["darkroom"]["build"]
    assert (folder / build["context"]).resolve() == PROJECT_DIR
    assert (PROJECT_DIR / build["dockerfile"]).is_file()
    for service in services.values():
        mounts = [volume.split(":")[0] for volume in service.get("volumes", [])]
        assert all((folder / mount).is_file() for mount in mounts if mount.startswith("."))
    assert services["darkroom"]["environment"]["DARKROOM_S3_ENDPOINT"] == "http://s3:8333"
    assert "-s3.port=8333" in services["s3"]["command"]
    prometheus = yaml.safe_load(text_of("configs/deploy/prometheus.yaml"))
    [scrape] = prometheus["scrape_configs"]
    assert scrape["static_configs"] == [{"targets": [f"darkroom:{Settings().port}"]}]
