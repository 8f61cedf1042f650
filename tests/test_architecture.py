"""The rules of the house that no linter knows: one gate to the data, rooms without torch, small named files."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

PROJECT = Path(__file__).resolve().parents[1]
ROOMS = ("configs", "models", "pipelines", "training", "serving", "scripts", "tests")
FORBIDDEN_NAMES = {"utils", "util", "helpers", "helper", "common", "manager", "core", "misc"}
MAX_LINES = 300
GATE = "serving/mongo.py"
GATE_NAMES = {"_database", "_collection", "AsyncMongoClient", "MongoClient"}
VENDOR = {"pymongo", "bson", "motor"}
HEAVY = {"torch", "diffusers", "transformers", "peft", "accelerate", "cv2", "av", "scenedetect", "onnxruntime"}


class Crossing(NamedTuple):
    """One call that looks past a tenant."""

    file: str
    function: str
    collection: str
    reason: str


# Every place that may look past a tenant. A new one is a decision about other people's data: argue for it in review.
CROSSINGS = {
    Crossing("serving/tenancy/auth.py", "KeyRing.authenticate", "api_keys", "authenticate"),
    Crossing("serving/tenancy/tenants.py", "Tenants.__init__", "tenants", "operate_server"),
    Crossing("serving/draining.py", "Board.__init__", "server", "operate_server"),
    Crossing("serving/draining.py", "Board.__init__", "jobs", "count_queue"),
    Crossing("serving/jobs/census.py", "Census.__init__", "jobs", "count_queue"),
    Crossing("serving/jobs/chores.py", "Chores.__init__", "chores", "operate_server"),
    Crossing("serving/jobs/eta.py", "Forecast._read_paces", "paces", "share_queue"),
    Crossing("serving/jobs/idempotency.py", "IdempotencyKeys.delete_old", "idempotency_keys", "operate_server"),
    Crossing("serving/jobs/pace.py", "OldPaces.__init__", "paces", "share_queue"),
    Crossing("serving/jobs/pace.py", "Pace.__init__", "paces", "share_queue"),
    Crossing("serving/jobs/shares.py", "Shares.__init__", "shares", "share_queue"),
    Crossing("serving/jobs/store.py", "JobStore.count_queued", "jobs", "count_queue"),
    Crossing("serving/jobs/store.py", "JobStore._claim", "jobs", "drive_jobs"),
    Crossing("serving/jobs/store.py", "JobStore._write", "jobs", "drive_jobs"),
    Crossing("serving/jobs/upkeep.py", "JobUpkeep.__init__", "jobs", "drive_jobs"),
    Crossing("serving/uploads/store.py", "UploadStore.due", "uploads", "tidy_uploads"),
    Crossing("serving/webhooks/lines.py", "Lines.due", "webhook_lines", "deliver_webhooks"),
    Crossing("serving/webhooks/store.py", "DeliveryStore.delete_old", "webhook_deliveries", "deliver_webhooks"),
}


def python_files(*rooms: str) -> list[Path]:
    files = [path for room in rooms for path in (PROJECT / room).rglob("*.py") if "__pycache__" not in path.parts]
    assert files, "the rooms have moved"
    return sorted(files)


def name_of(path: Path) -> str:
    return path.relative_to(PROJECT).as_posix()


def gate_breaches(source: str) -> list[str]:
    """Ways round the gate in a file that is not the gate."""
    breaches: list[str] = []
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                found = {alias.name.partition(".")[0] for alias in names} & VENDOR
            case ast.ImportFrom(module=str(module), level=0):
                found = {module.partition(".")[0]} & VENDOR
            case ast.Attribute(attr=name) | ast.Name(id=name) | ast.alias(name=name) | ast.Constant(value=str(name)):
                found = {name} & GATE_NAMES
            case _:
                continue
        # Another object's client is a way in; one's own may be any client.
        if isinstance(node, ast.Attribute) and node.attr == "_client":
            found = set() if isinstance(node.value, ast.Name) and node.value.id == "self" else {"_client"}
        breaches += [f"line {getattr(node, 'lineno', '?')}: {name}" for name in sorted(found)]
    return breaches


def crossings(source: str, file: str) -> list[Crossing]:
    """All uses of across_tenants; one that is not a plain call with plain words shows up as '?'."""

    def walk(node: ast.AST, names: tuple[str, ...]) -> Iterator[Crossing]:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            names = (*names, node.name)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "across_tenants":
            words = [arg.value if isinstance(arg, ast.Constant) else "?" for arg in node.args]
            collection, reason = words if len(words) == 2 and not node.keywords else ("?", "?")
            yield Crossing(file, ".".join(names), str(collection), str(reason))
            children: list[ast.AST] = [node.func.value, *node.args]
        elif (isinstance(node, ast.Attribute) and node.attr == "across_tenants") or (
            isinstance(node, ast.Constant) and node.value == "across_tenants"
        ):
            yield Crossing(file, ".".join(names), "?", "?")
            children = list(ast.iter_child_nodes(node))
        else:
            children = list(ast.iter_child_nodes(node))
        for child in children:
            yield from walk(child, names)

    return list(walk(ast.parse(source), ()))


def test_only_the_gate_touches_the_database() -> None:
    breaches = {
        name_of(path): found
        for path in python_files("serving", "training", "pipelines", "models", "configs", "scripts")
        if name_of(path) != GATE and (found := gate_breaches(path.read_text("utf-8")))
    }
    assert breaches == {}


@pytest.mark.parametrize(
    "source",
    [
        "from pymongo import AsyncMongoClient",
        "import pymongo.asynchronous.collection",
        "import bson",
        "mongo._database['jobs'].find({})",
        "services.mongo._client['darkroom']",
        "self._mongo._client.admin",
        "jobs._collection.find({})",
        "getattr(mongo, '_database')",
    ],
)
def test_a_way_round_the_gate_is_caught(source: str) -> None:
    assert gate_breaches(source)


def test_a_client_of_ones_own_is_no_way_round_the_gate() -> None:
    assert gate_breaches("self._client.get('/v1/jobs')") == []


def test_whoever_looks_past_a_tenant_is_on_the_list() -> None:
    found = [
        crossing
        for path in python_files("serving")
        if name_of(path) != GATE
        for crossing in crossings(path.read_text("utf-8"), name_of(path))
    ]
    assert sorted(found) == sorted(CROSSINGS), "a call was added or has gone: decide, then change CROSSINGS"


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("class A:\n  def f(self):\n    self._m.across_tenants('jobs', 'drive_jobs')", ("A.f", "jobs", "drive_jobs")),
        ("async def f(m, why): await m.across_tenants('jobs', why).find({})", ("f", "jobs", "?")),
        ("def f(m): return m.across_tenants(name='jobs', reason='drive_jobs')", ("f", "?", "?")),
        ("def f(m): door = m.across_tenants", ("f", "?", "?")),
        ("def f(m): return getattr(m, 'across_tenants')", ("f", "?", "?")),
    ],
)
def test_a_new_look_past_a_tenant_is_caught(source: str, found: tuple[str, str, str]) -> None:
    assert crossings(source, "new.py") == [Crossing("new.py", *found)]
    assert Crossing("new.py", *found) not in CROSSINGS


@pytest.mark.parametrize("name", ["api", "router", "frames", "trainer"])
def test_api_router_frames_and_trainer_start_without_torch_and_without_decoders(name: str) -> None:
    module = f"serving.replicas.{name}"
    script = f"import sys, {module}\nheavy = {HEAVY} & set(sys.modules)\nassert not heavy, heavy\n"
    done = subprocess.run([sys.executable, "-c", script], cwd=PROJECT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]


def test_no_file_or_folder_has_a_name_that_says_nothing() -> None:
    named = [
        name_of(path)
        for room in ROOMS
        for path in (PROJECT / room).rglob("*")
        if path.stem.lower() in FORBIDDEN_NAMES and "__pycache__" not in path.parts
    ]
    assert named == []


def test_every_file_starts_by_saying_what_it_does() -> None:
    silent = [
        name_of(path)
        for path in python_files(*ROOMS)
        if (source := path.read_text("utf-8")).strip() and not _starts_with_docstring(source)
    ]
    # An empty file is fine only where it marks a folder of tests as a package.
    silent += [name_of(p) for p in python_files(*ROOMS[:-1]) if not p.read_text("utf-8").strip()]
    assert silent == []


def test_no_file_is_longer_than_a_reader_can_hold() -> None:
    lengths = {name_of(path): len(path.read_text("utf-8").splitlines()) for path in python_files(*ROOMS)}
    assert {name: lines for name, lines in lengths.items() if lines > MAX_LINES} == {}


def _starts_with_docstring(source: str) -> bool:
    lines = source.splitlines()
    first = lines[1] if lines[0].startswith("#!") else lines[0]
    return first.startswith('"""') and bool(ast.get_docstring(ast.parse(source)))
