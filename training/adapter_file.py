"""The file that is published: diffusers' own keys and settings, and what other programs look for in its header.

diffusers writes it; then only its header is written anew. Equal weights and facts are equal bytes.
"""

import hashlib
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from models.safetensors_file import CHUNK_BYTES, Piece, read_header, write_file
from training.file_notes import AdapterFacts, base_kind, file_notes
from training.recipe import Recipe
from training.targets import ADAPTER


def write_adapter(
    path: Path,
    pipeline: Any,  # noqa: ANN401 - diffusers is untyped
    state: Mapping[str, Tensor],
    recipe: Recipe,
    facts: AdapterFacts,
) -> str:
    """The file's SHA-256. `state`: the tensors of a Learner on this pipeline; they are written as they are."""
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        pipeline.save_lora_weights(folder, weight_name="lora.safetensors", **_as_diffusers_takes_it(pipeline, state))
        written = Path(folder) / "lora.safetensors"
        header = read_header(written)
        notes = file_notes(
            base_kind(pipeline, facts.base_spec), recipe, facts, tensors_sha256=_sha256(written, header.data_start)
        )
        pieces = [Piece(tensor.key, tensor.dtype, tensor.shape, tensor) for tensor in header.tensors]
        metadata = dict(sorted({**notes, **header.metadata}.items()))
        finished = Path(folder) / "finished.safetensors"
        write_file(finished, pieces, source=written, source_data_start=header.data_start, metadata=metadata)
        finished.replace(path)
    return _sha256(path)


def _as_diffusers_takes_it(pipeline: Any, state: Mapping[str, Tensor]) -> dict[str, Any]:  # noqa: ANN401
    """The arguments of save_lora_weights(): for each component its tensors and PEFT's settings."""
    arguments: dict[str, Any] = {}
    for component in sorted({name.partition(".")[0] for name in state}):
        prefix = f"{component}."
        own = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
        settings = getattr(pipeline, component).peft_config[ADAPTER].to_dict()
        arguments[f"{component}_lora_layers"] = own
        # A set's order differs from process to process.
        arguments[f"{component}_lora_adapter_metadata"] = {
            name: sorted(value) if isinstance(value, set) else value for name, value in settings.items()
        }
    return arguments


def _sha256(path: Path, start: int = 0) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        file.seek(start)
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
