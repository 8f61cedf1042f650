"""The weight cache: where a folder comes from, what is refused, what is hashed, what is evicted."""

import json
import os
import pickle
import shutil
from fnmatch import fnmatch
from pathlib import Path
from types import SimpleNamespace

import httpx2
import pytest
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

from configs.settings import ModelSettings
from models import hub
from models.errors import UnsafeWeights, WeightsError
from models.folder import check_folder, variant_of
from models.hub import wanted_files
from models.weights import MARKER, evict, hash_folder, hold, resolve, verified_hash
from tests.models.tiny import tiny_spec

SPEC = tiny_spec("sd")
SETTINGS = ModelSettings()


class FakeHub:
    """A hub with one repository, a folder on disk, that counts what is fetched from it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.fetched: list[str] = []
        self.error: Exception | None = None

    def model_info(self, repo: str, *, revision: str, files_metadata: bool) -> SimpleNamespace:
        if self.error:
            raise self.error
        return SimpleNamespace(
            sha="c0ffee",
            siblings=[SimpleNamespace(rfilename=name, size=1) for name in self.names()],
        )

    def names(self) -> list[str]:
        return sorted(p.relative_to(self.folder).as_posix() for p in self.folder.rglob("*") if p.is_file())

    def download_one(self, repo: str, name: str, *, revision: str, local_dir: Path) -> str:
        return str(self._copy(name, local_dir))

    def download_many(self, repo: str, *, revision: str, local_dir: Path, allow_patterns: list[str]) -> None:
        for name in self.names():
            if any(fnmatch(name, pattern) for pattern in allow_patterns):
                self._copy(name, local_dir)

    def _copy(self, name: str, local_dir: Path) -> Path:
        target = Path(local_dir) / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(self.folder / name, target)
        self.fetched.append(name)
        return target


@pytest.fixture
def fake_hub(sd_copy: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    fake = FakeHub(sd_copy)
    monkeypatch.setattr(hub, "HfApi", lambda: fake)
    monkeypatch.setattr(hub, "hf_hub_download", fake.download_one)
    monkeypatch.setattr(hub, "snapshot_download", fake.download_many)
    return fake


def refusal(status: int) -> httpx2.Response:
    return httpx2.Response(status, request=httpx2.Request("GET", "https://hub.example"))


def test_an_override_wins_over_every_source(tiny_sd: Path, tmp_path: Path, fake_hub: FakeHub) -> None:
    settings = ModelSettings(dirs={SPEC.id: tiny_sd})
    assert resolve(SPEC, settings, tmp_path) == tiny_sd
    assert fake_hub.fetched == []


def test_an_override_that_is_no_folder_is_named(tmp_path: Path) -> None:
    settings = ModelSettings(dirs={SPEC.id: tmp_path / "nowhere"})
    with pytest.raises(WeightsError, match=rf"nowhere, named by models\.dirs\.{SPEC.id}"):
        resolve(SPEC, settings, tmp_path)


def test_the_hub_is_asked_once_and_never_for_pickles(fake_hub: FakeHub, tmp_path: Path) -> None:
    (fake_hub.folder / "unet" / "diffusion_pytorch_model.bin").write_bytes(pickle.dumps("evil"))
    (fake_hub.folder / "whole-model.safetensors").write_bytes(b"24 GB of the same weights once more")
    (fake_hub.folder / "unet" / "run_me.py").write_text("raise SystemExit")
    folder = resolve(SPEC, SETTINGS, tmp_path)
    check_folder(folder)
    assert not [name for name in fake_hub.fetched if name.endswith((".bin", ".py"))]
    assert "whole-model.safetensors" not in fake_hub.fetched
    assert "tokenizer/tokenizer.json" in fake_hub.fetched
    fake_hub.fetched.clear()
    fake_hub.error = ConnectionError("unplugged")
    assert resolve(SPEC, SETTINGS, tmp_path) == folder
    assert fake_hub.fetched == []


def test_a_download_that_was_killed_is_taken_up_again(fake_hub: FakeHub, tmp_path: Path) -> None:
    folder = resolve(SPEC, SETTINGS, tmp_path)
    (folder / MARKER).unlink()
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    resolve(SPEC, SETTINGS, tmp_path)
    assert (folder / "unet" / "diffusion_pytorch_model.safetensors").exists()


def test_a_repository_with_nothing_but_pickles_is_refused_before_it_is_fetched(
    fake_hub: FakeHub, tmp_path: Path
) -> None:
    weights = fake_hub.folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(UnsafeWeights, match=r"unet/diffusion_pytorch_model\.bin is a pickle"):
        resolve(SPEC, SETTINGS, tmp_path)
    assert fake_hub.fetched == ["model_index.json"]


def test_hub_errors_say_what_the_operator_can_do(fake_hub: FakeHub, tmp_path: Path) -> None:
    cases = [
        (GatedRepoError("401", response=refusal(401)), rf"accept its licence.*HF_TOKEN.*models\.dirs\.{SPEC.id}"),
        (RepositoryNotFoundError("404", response=refusal(404)), "does not exist on the hub"),
        (httpx2.ConnectError("no route"), rf"cannot be reached.*models\.dirs\.{SPEC.id}"),
    ]
    for error, sentence in cases:
        fake_hub.error = error
        with pytest.raises(WeightsError, match=sentence):
            resolve(SPEC, SETTINGS, tmp_path)


def test_only_the_wanted_variant_is_chosen_where_there_is_one(tiny_sd: Path) -> None:
    index = check_folder(tiny_sd)
    files = [
        "unet/config.json",
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "unet/diffusion_pytorch_model.non_ema.safetensors",
        "unet/diffusion_pytorch_model.safetensors",
        "text_encoder/model.safetensors",
        "vae/diffusion_pytorch_model.fp16-00001-of-00002.safetensors",
        "vae/diffusion_pytorch_model.fp16-00002-of-00002.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
        "safety_checker/model.safetensors",
        "vae_old/config.json",
    ]
    assert wanted_files(files, index, variant="fp16", where="x") == [
        "text_encoder/model.safetensors",
        "unet/config.json",
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "vae/diffusion_pytorch_model.fp16-00001-of-00002.safetensors",
        "vae/diffusion_pytorch_model.fp16-00002-of-00002.safetensors",
    ]
    plain = wanted_files(files, index, variant=None, where="x")
    assert [name for name in plain if variant_of(name.split("/")[1]) and name.endswith("safetensors")] == []


def test_a_component_with_only_a_pickle_is_refused_by_name(sd_copy: Path) -> None:
    weights = sd_copy / "text_encoder" / "model.safetensors"
    weights.rename(weights.with_name("pytorch_model.bin"))
    with pytest.raises(UnsafeWeights, match=r"text_encoder/pytorch_model\.bin is a pickle"):
        check_folder(sd_copy)


def test_a_pickle_beside_safetensors_is_ignored(sd_copy: Path) -> None:
    (sd_copy / "unet" / "diffusion_pytorch_model.bin").write_bytes(pickle.dumps("evil"))
    before = hash_folder(sd_copy)
    check_folder(sd_copy)
    assert hash_folder(sd_copy) == before


def test_a_component_without_weights_is_named(sd_copy: Path) -> None:
    (sd_copy / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(WeightsError, match="component 'vae' has no safetensors weights"):
        check_folder(sd_copy)


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("_class_name", "EvilPipeline", "'EvilPipeline' is not supported; known are: FluxPipeline"),
        ("_class_name", ["pipeline.py", "Evil"], "is not supported"),
        ("unet", ["my_code", "UNet2DConditionModel"], "component 'unet' is my_code"),
        ("unet", ["diffusers", "EvilModel"], "EvilModel, which is not supported"),
        ("../unet", ["diffusers", "UNet2DConditionModel"], "is not supported|not supported"),
        ("scheduler", ["my_scheduler", "EvilScheduler"], "component 'scheduler'"),
    ],
)
def test_an_index_that_would_load_foreign_code_is_refused(
    sd_copy: Path, key: str, value: object, sentence: str
) -> None:
    path = sd_copy / "model_index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    with pytest.raises(WeightsError, match=sentence):
        check_folder(sd_copy)


@pytest.mark.parametrize("text", [None, "{", "[]"])
def test_a_folder_without_a_usable_index_is_refused(sd_copy: Path, text: str | None) -> None:
    path = sd_copy / "model_index.json"
    path.unlink() if text is None else path.write_text(text)
    with pytest.raises(WeightsError, match=r"model_index\.json"):
        check_folder(sd_copy)


def test_the_hash_follows_the_weights_and_is_not_computed_twice(sd_copy: Path, tmp_path: Path) -> None:
    state = tmp_path / "state"
    first = hash_folder(sd_copy, state)
    assert first == hash_folder(sd_copy) == hash_folder(sd_copy, state)
    weights = sd_copy / "unet" / "diffusion_pytorch_model.safetensors"
    stat = weights.stat()
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    os.utime(weights, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert hash_folder(sd_copy, state) == first, "same size and time: the cache answers"
    os.utime(weights, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    assert hash_folder(sd_copy, state) not in {first, ""}
    assert hash_folder(sd_copy, state) == hash_folder(sd_copy)


def test_weights_that_are_not_what_the_catalogue_promises_are_refused(fake_hub: FakeHub, tmp_path: Path) -> None:
    true_hash = hash_folder(fake_hub.folder)
    for promised, is_fine in ((true_hash, True), ("0" * 64, False)):
        source = SPEC.source.model_copy(update={"sha256": promised})
        spec = SPEC.model_copy(update={"source": source})
        with hold(spec, SETTINGS, tmp_path) as held:
            if is_fine:
                assert verified_hash(spec, held, tmp_path) == true_hash
            else:
                with pytest.raises(WeightsError, match="the catalogue says 0000"):
                    verified_hash(spec, held, tmp_path)


def test_eviction_takes_the_least_recently_used_and_spares_what_is_held(fake_hub: FakeHub, tmp_path: Path) -> None:
    specs = {name: tiny_spec("sd", name) for name in ("old", "held", "kept", "new")}
    folders = {name: resolve(spec, SETTINGS, tmp_path) for name, spec in specs.items()}
    for age, name in enumerate(specs):
        os.utime(folders[name] / MARKER, (1_000 + age, 1_000 + age))
    size_bytes = sum(path.stat().st_size for path in folders["old"].rglob("*") if path.is_file())
    held = hold(specs["held"], SETTINGS, tmp_path)
    os.utime(folders["held"] / MARKER, (1_001, 1_001))
    assert evict(tmp_path, 10 * size_bytes) == []
    assert evict(tmp_path, 3 * size_bytes + 10) == ["old"]
    assert not folders["old"].exists()
    assert evict(tmp_path, 0, keep={"kept"}) == ["new"]
    held.close()
    assert evict(tmp_path, 0) == ["held", "kept"]
    assert resolve(specs["old"], SETTINGS, tmp_path).is_dir()


def test_a_download_makes_room_for_itself(fake_hub: FakeHub, tmp_path: Path) -> None:
    first = resolve(tiny_spec("sd", "first"), SETTINGS, tmp_path)
    resolve(tiny_spec("sd", "second"), ModelSettings(cache_max_bytes=1), tmp_path)
    assert not first.exists()
