"""The catalogue: configs/models/*.yaml become {id: ModelSpec}. Loads no weights."""

from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError

from configs.settings import CONFIG_DIR, SettingsError, read_yaml
from models.errors import CatalogError, UnknownModel
from models.spec import ModelSpec

CATALOG_DIR = CONFIG_DIR / "models"


def load_catalog(folder: Path = CATALOG_DIR) -> dict[str, ModelSpec]:
    """Every entry of `folder` by id; CatalogError names the file and the key that is wrong."""
    catalog: dict[str, ModelSpec] = {}
    origin: dict[str, Path] = {}
    for path in sorted(folder.glob("*.yaml")):
        spec = _read_spec(path)
        if spec.id in catalog:
            raise CatalogError(f"{path}: id: {spec.id!r} is already defined by {origin[spec.id].name}")
        if spec.id != path.stem:
            raise CatalogError(f"{path}: id: {spec.id!r} must equal the file's name, {path.stem!r}")
        catalog[spec.id], origin[spec.id] = spec, path
    if not catalog:
        raise CatalogError(f"{folder}: no model is defined here; expected one <id>.yaml for each")
    return catalog


def get_model(catalog: Mapping[str, ModelSpec], model_id: str) -> ModelSpec:
    """The entry called `model_id`; UnknownModel lists what exists."""
    if model_id not in catalog:
        raise UnknownModel(model_id, list(catalog))
    return catalog[model_id]


def _read_spec(path: Path) -> ModelSpec:
    try:
        return ModelSpec.model_validate(read_yaml(path))
    except SettingsError as error:
        raise CatalogError(str(error)) from error
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'entry'}: {e['msg']}" for e in error.errors())
        raise CatalogError(f"{path}: {problems}") from error
