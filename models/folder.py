"""A diffusers folder on disk: may it be loaded, and what is in it. Reads names and JSON, never weights."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from models.errors import UnsafeWeights, WeightsError
from models.spec import Family

PIPELINE_CLASSES: dict[Family, str] = {
    "sd": "StableDiffusionPipeline",
    "sdxl": "StableDiffusionXLPipeline",
    "flux": "FluxPipeline",
    "sd3": "StableDiffusion3Pipeline",
    "z-image": "ZImagePipeline",
    "qwen-image": "QwenImagePipeline",
}
INDEX = "model_index.json"
PICKLES = {".bin", ".ckpt", ".pt", ".pth", ".pkl", ".pickle"}  # torch.load of these may run any code
# Optional parts that we neither fetch nor load: a safety checker of its own is the server's business, not the model's.
NOT_LOADED = {"safety_checker", "feature_extractor", "image_encoder"}
WEIGHT_CLASSES = {
    "UNet2DConditionModel",
    "FluxTransformer2DModel",
    "SD3Transformer2DModel",
    "ZImageTransformer2DModel",
    "QwenImageTransformer2DModel",
    "AutoencoderKL",
    "AutoencoderKLQwenImage",
    "CLIPTextModel",
    "CLIPTextModelWithProjection",
    "T5EncoderModel",
    "Qwen3Model",
    "Qwen2_5_VLForConditionalGeneration",
}
TOKENIZER_CLASSES = {
    "CLIPTokenizer",
    "CLIPTokenizerFast",
    "T5Tokenizer",
    "T5TokenizerFast",
    "Qwen2Tokenizer",
    "Qwen2TokenizerFast",
}


@dataclass(frozen=True, slots=True)
class FolderIndex:
    """What model_index.json says: the pipeline's class, and component name → class name of those we load."""

    pipeline_class: str
    components: dict[str, str]


def check_folder(folder: Path) -> FolderIndex:
    """The folder's index, or WeightsError / UnsafeWeights naming what is wrong with it."""
    try:
        tree = json.loads((folder / INDEX).read_text("utf-8"))
    except FileNotFoundError as error:
        raise WeightsError(f"{folder} is not a diffusers folder: it has no {INDEX}") from error
    except (OSError, ValueError) as error:
        raise WeightsError(f"{folder / INDEX} cannot be read: {error}") from error
    index = read_index(tree, str(folder / INDEX))
    files = [path.relative_to(folder).as_posix() for path in folder.glob("*/*")]
    choose_weights(files, index, where=str(folder))
    return index


def check_family(index: FolderIndex, family: Family, *, where: str) -> None:
    """WeightsError unless the folder holds a pipeline of this family."""
    wanted = PIPELINE_CLASSES[family]
    if index.pipeline_class != wanted:
        known = ", ".join(sorted(PIPELINE_CLASSES.values()))
        raise WeightsError(
            f"{where} holds a {index.pipeline_class}, but family {family!r} needs a {wanted} (known are: {known})"
        )


def read_index(tree: Any, where: str) -> FolderIndex:  # noqa: ANN401 - parsed JSON, typed here
    """Parse model_index.json; anything that would load code of its own is refused."""
    name = tree.get("_class_name") if isinstance(tree, dict) else None
    if not isinstance(name, str) or name not in PIPELINE_CLASSES.values():
        known = ", ".join(sorted(PIPELINE_CLASSES.values()))
        raise WeightsError(f"{where}: pipeline class {name!r} is not supported; known are: {known}")
    components: dict[str, str] = {}
    for part, value in tree.items():
        if part in NOT_LOADED or not isinstance(value, list) or value == [None, None]:
            continue
        components[part] = _check_component(part, value, where)
    return FolderIndex(name, components)


def choose_weights(files: Iterable[str], index: FolderIndex, *, variant: str | None = None, where: str) -> list[str]:
    """The safetensors to load among `files` ("component/name"): those of `variant` where a component has it.

    UnsafeWeights when a component has nothing but pickles; pickles beside safetensors are ignored.
    """
    chosen: list[str] = []
    by_component: dict[str, list[PurePosixPath]] = {}
    for name in sorted(files):
        path = PurePosixPath(name)
        if len(path.parts) == 2:
            by_component.setdefault(path.parts[0], []).append(path)
    for component, class_name in index.components.items():
        if class_name not in WEIGHT_CLASSES:
            continue
        paths = by_component.get(component, [])
        safe = [path for path in paths if path.suffix == ".safetensors"]
        if not safe:
            pickles = [str(path) for path in paths if path.suffix in PICKLES]
            if pickles:
                raise UnsafeWeights(
                    f"{where}: {pickles[0]} is a pickle, which may run code when it is read, and there is no "
                    f"safetensors file beside it; convert it to safetensors first"
                )
            raise WeightsError(f"{where}: component {component!r} has no safetensors weights")
        of_variant = [path for path in safe if variant_of(path.name) == variant]
        plain = [path for path in safe if variant_of(path.name) is None]
        chosen += [str(path) for path in of_variant or plain or safe]
    return chosen


def variant_of(filename: str) -> str | None:
    """'fp16' for model.fp16.safetensors and model.fp16-00001-of-00002.safetensors; None for the plain file."""
    stem = filename.removesuffix(".safetensors")
    _, dot, tail = stem.partition(".")
    return tail.split("-", 1)[0] if dot else None


def weight_files(folder: Path) -> list[Path]:
    """Every safetensors file of every component, in a fixed order."""
    return sorted(folder.glob("*/*.safetensors"), key=lambda path: path.relative_to(folder).as_posix())


def _check_component(part: str, value: list[Any], where: str) -> str:
    library, class_name = value if len(value) == 2 else (None, None)
    is_known = (library == "transformers" and class_name in WEIGHT_CLASSES | TOKENIZER_CLASSES) or (
        library == "diffusers" and (class_name in WEIGHT_CLASSES or str(class_name).endswith("Scheduler"))
    )
    # A path in the name would leave the folder; an unknown library would be code from the folder.
    if not is_known or not part.isidentifier():
        raise WeightsError(f"{where}: component {part!r} is {library}.{class_name}, which is not supported")
    return str(class_name)
