"""The catalogue that ships is valid, and mistakes in it are named."""

import re
import shutil
from pathlib import Path

import pytest

from configs.settings import CONFIG_DIR
from models.catalog import get_model, load_catalog
from models.errors import CatalogError, UnknownModel
from pipelines.schedulers import SCHEDULERS

SHIPPED = sorted(path.stem for path in (CONFIG_DIR / "models").glob("*.yaml"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copy(CONFIG_DIR / "models" / "sdxl.yaml", tmp_path / "sdxl.yaml")
    return tmp_path


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_the_shipped_catalogue_has_the_promised_models() -> None:
    assert set(SHIPPED) >= {
        "emoji-3d",
        "sd15",
        "sdxl",
        "sdxl-turbo",
        "flux-schnell",
        "flux-dev",
        "sd3.5-medium",
        "z-image-turbo",
        "qwen-image",
    }


@pytest.mark.parametrize("model_id", SHIPPED)
def test_every_shipped_entry_keeps_its_own_limits(model_id: str) -> None:
    spec = load_catalog()[model_id]
    limits = spec.limits
    assert spec.sizes[0] == f"{spec.defaults.width_px}x{spec.defaults.height_px}"
    for size in spec.sizes:
        width_px, height_px = map(int, re.fullmatch(r"(\d+)x(\d+)", size).groups())
        for side_px in (width_px, height_px):
            assert limits.min_side_px <= side_px <= limits.max_side_px
            assert side_px % limits.side_multiple_px == 0
        assert width_px * height_px <= limits.max_pixels
    assert limits.side_multiple_px % (8 if spec.family in ("sd", "sdxl") else 16) == 0
    assert spec.defaults.scheduler is None or spec.defaults.scheduler in SCHEDULERS[spec.family]
    assert limits.has_guidance or spec.defaults.guidance_scale == 0
    assert limits.has_negative_prompt or spec.defaults.negative_prompt == ""


def test_distilled_models_have_their_cards_defaults() -> None:
    catalog = load_catalog()
    turbo, schnell, dev = (catalog[name] for name in ("sdxl-turbo", "flux-schnell", "flux-dev"))
    assert (turbo.defaults.num_inference_steps, turbo.defaults.guidance_scale) == (1, 0.0)
    assert schnell.defaults.num_inference_steps == 4
    assert not schnell.limits.has_guidance
    assert (dev.defaults.num_inference_steps, dev.defaults.guidance_scale) == (28, 3.5)
    assert dev.source.needs_token


def test_a_misspelt_key_is_refused_with_file_and_key(folder: Path) -> None:
    edit(folder / "sdxl.yaml", "max_side_px", "max_sied_px")
    with pytest.raises(CatalogError, match=r"sdxl\.yaml: .*limits\.max_sied_px"):
        load_catalog(folder)


def test_a_default_outside_the_limits_is_refused(folder: Path) -> None:
    edit(folder / "sdxl.yaml", "width_px: 1024", "width_px: 1023")
    with pytest.raises(CatalogError, match=r"sdxl\.yaml: .*1023x1024 is outside"):
        load_catalog(folder)


def test_a_duplicate_id_is_refused_naming_both_files(folder: Path) -> None:
    shutil.copy(folder / "sdxl.yaml", folder / "zebra.yaml")
    with pytest.raises(CatalogError, match=r"zebra\.yaml: id: 'sdxl' is already defined by sdxl\.yaml"):
        load_catalog(folder)


def test_the_file_name_must_be_the_id(folder: Path) -> None:
    (folder / "sdxl.yaml").rename(folder / "other.yaml")
    with pytest.raises(CatalogError, match=r"other\.yaml: id: 'sdxl' must equal the file's name, 'other'"):
        load_catalog(folder)


@pytest.mark.parametrize("text", ["a: [", "- 1\n- 2\n", ""])
def test_a_file_that_is_not_a_mapping_is_refused_by_name(folder: Path, text: str) -> None:
    (folder / "broken.yaml").write_text(text)
    with pytest.raises(CatalogError, match=r"broken\.yaml"):
        load_catalog(folder)


def test_an_entry_needs_exactly_one_source(folder: Path) -> None:
    edit(folder / "sdxl.yaml", "  hub: ", "  path: somewhere\n  hub: ")
    with pytest.raises(CatalogError, match=r"source: .*exactly one of path and hub"):
        load_catalog(folder)


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match="no model is defined"):
        load_catalog(tmp_path)


def test_an_unknown_model_lists_what_exists() -> None:
    catalog = load_catalog()
    assert get_model(catalog, "sdxl").family == "sdxl"
    with pytest.raises(UnknownModel, match=r"'dall-e-9'.*emoji-3d.*sdxl-turbo") as caught:
        get_model(catalog, "dall-e-9")
    assert caught.value.known == sorted(catalog)
