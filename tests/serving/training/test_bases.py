"""Models that trainings need: held while they are used, fetched once, and what is said where that fails."""

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from configs.settings import Settings
from models import hub
from models.catalog import load_catalog
from serving.backends.training import TrainingError
from serving.training.bases import Bases

CATALOG = load_catalog()
SERVED = {name: CATALOG[name] for name in ("emoji-3d", "sd15", "qwen-image")}


def bases(state_dir: Path, **tree: Any) -> Bases:
    return Bases(SERVED, Settings.model_validate({"state_dir": state_dir, **tree}))


class Hub:
    """In the place of huggingface_hub: counts what is fetched, and breaks off once where it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.fetched: list[str] = []
        self.is_broken = False
        monkeypatch.setattr(hub, "HfApi", lambda: SimpleNamespace(model_info=self._model_info))
        monkeypatch.setattr(hub, "snapshot_download", self._download)

    def _model_info(self, name: str, revision: str) -> Any:
        return SimpleNamespace(sha=f"commit-of-{revision}")

    def _download(self, name: str, *, revision: str, local_dir: Path, allow_patterns: list[str]) -> None:
        assert not any(pattern.endswith((".bin", ".py", ".pt")) for pattern in allow_patterns)
        self.fetched.append(f"{name}@{revision}")
        local_dir.mkdir(parents=True, exist_ok=True)
        (local_dir / "config.json").write_text("{}")
        if self.is_broken:
            raise ConnectionError("reset by peer")


@pytest.fixture
def fake_hub(monkeypatch: pytest.MonkeyPatch) -> Hub:
    return Hub(monkeypatch)


def test_only_served_models_of_a_family_that_we_know_are_trained_here(tmp_path: Path) -> None:
    those = bases(tmp_path)
    assert [name for name in CATALOG if those.can_train(name)] == ["emoji-3d", "sd15"]


async def test_a_base_model_comes_with_its_folder_and_hash_many_times_at_once(tmp_path: Path) -> None:
    those = bases(tmp_path, models={"device": "cpu"})

    async def held() -> tuple[str, str, str, str]:
        async with those.held("emoji-3d") as base:
            return base.spec["id"], base.device, base.folder, base.sha256

    ((model_id, device, folder, sha256),) = set(await asyncio.gather(*(held() for _ in range(8))))
    assert (model_id, device, len(sha256)) == ("emoji-3d", "cpu", 64)
    assert folder.endswith("/models/embedded/emoji-3d")


@pytest.mark.parametrize(("model_id", "code"), [("qwen-image", "not_trainable"), ("sd15", "weights_unavailable")])
async def test_one_that_cannot_be_had_is_refused_with_the_reason(tmp_path: Path, model_id: str, code: str) -> None:
    those = bases(tmp_path, models={"dirs": {"sd15": tmp_path / "nowhere"}})
    with pytest.raises(TrainingError) as caught:
        async with those.held(model_id):
            pass
    assert caught.value.code == code


async def test_a_captioner_may_be_a_folder_or_none(tmp_path: Path, fake_hub: Hub) -> None:
    assert await bases(tmp_path).captioner() is None
    folder = tmp_path / "blip"
    folder.mkdir()
    assert await bases(tmp_path, training={"captioner": str(folder)}).captioner() == str(folder)
    assert fake_hub.fetched == []


async def test_a_captioner_of_the_hub_is_fetched_once_and_a_broken_download_goes_on(
    tmp_path: Path, fake_hub: Hub
) -> None:
    settings = {"training": {"captioner": "somebody/blip", "captioner_revision": "v1"}}
    fake_hub.is_broken = True
    with pytest.raises(TrainingError, match="reset by peer") as caught:
        await bases(tmp_path, **settings).captioner()
    assert caught.value.code == "no_captioner"
    fake_hub.is_broken = False
    folders = {await bases(tmp_path, **settings).captioner() for _ in range(3)}
    assert fake_hub.fetched == ["somebody/blip@commit-of-v1"] * 2
    assert [Path(str(folder)).parent for folder in folders] == [tmp_path / "captioners"]
