"""The local weight cache: finds a model's folder, downloads it once, hashes it, evicts by bytes. Loads no weights."""

import fcntl
import hashlib
import json
import os
import shutil
import threading
import time
from collections.abc import Collection, Generator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Self

from configs.settings import PROJECT_DIR, ModelSettings
from models.errors import WeightsError
from models.folder import check_folder, weight_files
from models.hub import download
from models.spec import ModelSpec

CACHE = "weights"  # below the state folder
MARKER = "darkroom-download.json"  # written last, so a folder that has it is complete
READ_BYTES = 4_194_304
LOCK_DEADLINE_S = 7_200.0  # another process may be downloading 30 GB over a slow line
LOCK_POLL_S = 0.5


@dataclass(frozen=True, slots=True)
class HeldWeights:
    """A folder that no other process evicts until `close()`, or until this process ends."""

    folder: Path
    is_override: bool = False  # named by models.dirs, so it need not be what the catalogue's hash says
    lock: IO[bytes] | None = None

    def close(self) -> None:
        if self.lock is not None:
            self.lock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def resolve(spec: ModelSpec, settings: ModelSettings, state_dir: Path) -> Path:
    """The folder with this model's weights, downloaded if need be; see hold() for using it."""
    with hold(spec, settings, state_dir) as held:
        return held.folder


def hold(spec: ModelSpec, settings: ModelSettings, state_dir: Path) -> HeldWeights:
    """Where the weights are: a `models.dirs` override, the project's own folder, or the cache (filled from the hub)."""
    if override := settings.dirs.get(spec.id):
        return HeldWeights(_existing(override.expanduser(), f"models.dirs.{spec.id}"), is_override=True)
    if spec.source.path is not None:
        return HeldWeights(_existing(PROJECT_DIR / spec.source.path, f"the catalogue entry {spec.id!r}"))
    cache = state_dir / CACHE
    folder = cache / spec.id
    folder.mkdir(parents=True, exist_ok=True)
    lock = (cache / f"{spec.id}.lock").open("ab")
    try:
        _lock(lock, fcntl.LOCK_SH, spec)
        while not _is_complete(folder, spec):
            _lock(lock, fcntl.LOCK_UN, spec)
            _lock(lock, fcntl.LOCK_EX, spec)
            if not _is_complete(folder, spec):
                _fill(spec, folder, settings.cache_max_bytes)
            _lock(lock, fcntl.LOCK_SH, spec)
        os.utime(folder / MARKER)  # its time is when the model was last used
    except BaseException:
        lock.close()
        raise
    return HeldWeights(folder, lock=lock)


def hash_folder(folder: Path, state_dir: Path | None = None) -> str:
    """SHA-256 over the names and hashes of all weight files. With `state_dir`, unchanged files are not read again."""
    known_path = state_dir / CACHE / "hashes.json" if state_dir else None
    known = _read_hashes(known_path)
    whole = hashlib.sha256()
    has_news = False
    for path in weight_files(folder):
        stat = path.stat()
        key = f"{path.resolve()}:{stat.st_size}:{stat.st_mtime_ns}"
        if key not in known:
            with path.open("rb") as file:
                known[key] = hashlib.file_digest(file, "sha256").hexdigest()
            has_news = True
        whole.update(f"{path.relative_to(folder).as_posix()}\0{known[key]}\n".encode())
    if known_path and has_news:
        _write_whole(known_path, json.dumps(known, indent=0))
    return whole.hexdigest()


def verified_hash(spec: ModelSpec, held: HeldWeights, state_dir: Path) -> str:
    """The folder's hash; WeightsError when the catalogue promises another one."""
    digest = hash_folder(held.folder, state_dir)
    if spec.source.sha256 and not held.is_override and digest != spec.source.sha256:
        raise WeightsError(
            f"the weights of {spec.id} in {held.folder} have SHA-256 {digest}, but the catalogue says "
            f"{spec.source.sha256}: they are damaged or not the ones that were meant"
        )
    return digest


def evict(state_dir: Path, max_bytes: int, keep: Collection[str] = ()) -> list[str]:
    """Delete downloaded models, least recently used first, until the cache fits; returns the ids that went.

    Models in `keep`, and those that any process holds, stay.
    """
    cache = state_dir / CACHE
    markers = sorted(cache.glob(f"*/{MARKER}"), key=lambda path: path.stat().st_mtime)
    sizes = {marker.parent: _size_bytes(marker.parent) for marker in markers}
    total_bytes = sum(sizes.values())
    evicted: list[str] = []
    for folder, num_bytes in sizes.items():
        if total_bytes <= max_bytes:
            break
        if folder.name in keep:
            continue
        with _sole_user(cache / f"{folder.name}.lock") as is_ours:
            if not is_ours:
                continue
            (folder / MARKER).unlink()  # first: killed half-way, the rest must not look complete
            shutil.rmtree(folder)
        total_bytes -= num_bytes
        evicted.append(folder.name)
    return evicted


@dataclass(frozen=True, slots=True)
class _Origin:
    """What a downloaded folder was made from; another origin means another download."""

    hub: str | None
    revision: str
    variant: str | None


def _origin(spec: ModelSpec) -> _Origin:
    return _Origin(spec.source.hub, spec.source.revision, spec.source.variant)


def _existing(folder: Path, named_by: str) -> Path:
    if not folder.is_dir():
        raise WeightsError(f"{folder}, named by {named_by}, is not a folder")
    return folder.resolve()


def _is_complete(folder: Path, spec: ModelSpec) -> bool:
    try:
        tree = json.loads((folder / MARKER).read_text("utf-8"))
    except (FileNotFoundError, ValueError):
        return False
    return isinstance(tree, dict) and tree.get("origin") == asdict(_origin(spec))


def _fill(spec: ModelSpec, folder: Path, cache_max_bytes: int) -> None:
    def make_room(num_bytes: int) -> None:
        evict(folder.parent.parent, max(0, cache_max_bytes - num_bytes), keep={spec.id})

    folder.mkdir(exist_ok=True)
    commit = download(spec, folder, make_room=make_room)
    check_folder(folder)
    _write_whole(folder / MARKER, json.dumps({"origin": asdict(_origin(spec)), "commit": commit}))


def _lock(lock: IO[bytes], kind: int, spec: ModelSpec) -> None:
    deadline_s = time.monotonic() + LOCK_DEADLINE_S
    while True:
        try:
            return fcntl.flock(lock, kind | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() > deadline_s:
                raise WeightsError(f"another process has been busy with the weights of {spec.id} for hours") from error
            time.sleep(LOCK_POLL_S)


@contextmanager
def _sole_user(path: Path) -> Generator[bool, None, None]:
    with path.open("ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


def _size_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _read_hashes(path: Path | None) -> dict[str, str]:
    if path is None:
        return {}
    try:
        tree = json.loads(path.read_text("utf-8"))
    except (FileNotFoundError, ValueError):  # a broken cache only costs time
        return {}
    return {str(key): str(value) for key, value in tree.items()} if isinstance(tree, dict) else {}


def _write_whole(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}-{threading.get_ident()}.part")
    part.write_text(text, "utf-8")
    part.replace(path)
