"""Downloads one model's folder from the hub: safetensors, JSON and tokenizer files, nothing that can run."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import httpx2  # the client that huggingface_hub uses, and whose errors it lets through
from huggingface_hub import HfApi, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from models.errors import WeightsError
from models.folder import INDEX, FolderIndex, choose_weights, read_index
from models.spec import ModelSpec

TEXT_SUFFIXES = {".json", ".txt", ".model"}  # configs, merges and vocabularies, sentencepiece
WHOLE = ".darkroom-whole"  # lies in a folder to which everything was downloaded
ROOM_LEFT_BYTES = 2_000_000_000  # never fill the disk to the brim


def download(spec: ModelSpec, folder: Path, *, make_room: Callable[[int], None] = lambda num_bytes: None) -> str:
    """Fetch what `spec` needs into `folder`, resuming a broken download; returns the commit.

    `make_room` is told how many bytes will come. WeightsError says what the operator can do.
    """
    hub = spec.source.hub
    if hub is None:
        raise ValueError(f"{spec.id} does not come from the hub")
    try:
        return _download(spec, hub, folder, make_room)
    except (HfHubHTTPError, EntryNotFoundError, httpx2.HTTPError, OSError) as error:
        raise WeightsError(_advice(spec, hub, error)) from error


def fetch_repository(hub: str, *, revision: str, folder: Path) -> None:
    """Brings a transformers model into `folder`, once; a broken download goes on. WeightsError where that fails."""
    whole = folder / WHOLE
    if whole.exists():
        return
    patterns = [f"*{suffix}" for suffix in (*sorted(TEXT_SUFFIXES), ".safetensors")]
    try:
        # Asked first: offline, half a folder would be given for all of it.
        commit = str(HfApi().model_info(hub, revision=revision).sha)
        snapshot_download(hub, revision=commit, local_dir=folder, allow_patterns=patterns)
        whole.touch()
    except (HfHubHTTPError, httpx2.HTTPError, OSError) as error:
        advice = "connect to the hub, or put a folder of it on this machine and name that instead"
        raise WeightsError(f"{hub} could not be downloaded: {error}; {advice}") from error


def _download(spec: ModelSpec, hub: str, folder: Path, make_room: Callable[[int], None]) -> str:
    info = HfApi().model_info(hub, revision=spec.source.revision, files_metadata=True)
    sizes = {item.rfilename: item.size or 0 for item in info.siblings or ()}
    commit = str(info.sha)
    index_path = hf_hub_download(hub, INDEX, revision=commit, local_dir=folder)
    index = read_index(json.loads(Path(index_path).read_text("utf-8")), f"{hub}/{INDEX}")
    names = wanted_files(list(sizes), index, variant=spec.source.variant, where=hub)
    num_bytes = sum(sizes[name] for name in names)
    make_room(num_bytes)
    _check_disk(spec, folder, num_bytes)
    snapshot_download(hub, revision=commit, local_dir=folder, allow_patterns=[INDEX, *names])
    return commit


def wanted_files(files: list[str], index: FolderIndex, *, variant: str | None, where: str) -> list[str]:
    """Of a repository's files, those that loading needs: chosen weights and the text files of each component."""
    texts = [
        name
        for name in files
        if len(path := PurePosixPath(name).parts) == 2
        and path[0] in index.components
        and PurePosixPath(name).suffix in TEXT_SUFFIXES
    ]
    return sorted(texts + choose_weights(files, index, variant=variant, where=where))


def _check_disk(spec: ModelSpec, folder: Path, num_bytes: int) -> None:
    have = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    free = shutil.disk_usage(folder).free
    if num_bytes - have + ROOM_LEFT_BYTES > free:
        raise WeightsError(
            f"{spec.id} needs {num_bytes / 1e9:.1f} GB in {folder}, and the disk has {free / 1e9:.1f} GB left"
        )


def _advice(spec: ModelSpec, hub: str, error: Exception) -> str:
    elsewhere = f"or put a diffusers folder of it on this machine and name that under models.dirs.{spec.id}"
    match error:
        case GatedRepoError():
            return (
                f"{hub} is gated: accept its licence at https://huggingface.co/{hub}, and set HF_TOKEN to a token of "
                f"the account that did; {elsewhere}"
            )
        case RevisionNotFoundError():
            return f"{hub} has no revision {spec.source.revision!r}"
        case RepositoryNotFoundError():
            return f"{hub} does not exist on the hub, or HF_TOKEN may not see it; {elsewhere}"
        case LocalEntryNotFoundError() | OfflineModeIsEnabled():
            return f"{hub} is not on this machine and the hub cannot be reached; connect to it, {elsewhere}"
        case EntryNotFoundError():
            return f"{hub} is not a diffusers folder: {error}"
        case HfHubHTTPError():
            return f"the hub refused {hub}: {error}; try again, {elsewhere}"
        case httpx2.HTTPError() | ConnectionError():
            return f"the hub cannot be reached for {hub} ({error}); connect to it, {elsewhere}"
        case _:
            return f"{hub} could not be downloaded: {error}"
