"""PromptEncoder: texts in batches, and a cache of their embeddings. Runs beside the loop, in one thread."""

from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from models.lora import RowLoras
from pipelines.families.base import Family
from pipelines.sample import TextEmbedding


@dataclass(frozen=True, slots=True)
class PromptText:
    """A text and the adapters that are on while it is encoded."""

    text: str | None  # None: nothing said
    loras: RowLoras = ()


class PromptEncoder:
    """Encodes every distinct text once for as long as it stays in the cache."""

    def __init__(self, family: Family, *, max_bytes: int, max_batch: int) -> None:
        self._family = family
        self._max_bytes = max_bytes
        self._max_batch = max_batch
        self._cache: OrderedDict[Hashable, TextEmbedding] = OrderedDict()
        self._num_bytes = 0

    @property
    def num_bytes(self) -> int:
        """What the cache holds."""
        return self._num_bytes

    def encode(self, texts: Sequence[PromptText]) -> tuple[list[TextEmbedding], int]:
        """An embedding for each text, in order, and how many of them had to be made."""
        keys = [self._key(text) for text in texts]
        made: dict[Hashable, TextEmbedding] = {}
        missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in self._cache}
        todo = list(missing.items())
        for first in range(0, len(todo), self._max_batch):
            part = todo[first : first + self._max_batch]
            embeddings = self._family.encode([text.text for _, text in part], [text.loras for _, text in part])
            made |= {key: embedding for (key, _), embedding in zip(part, embeddings, strict=True)}
        found = [made[key] if key in made else self._cache[key] for key in keys]
        for key, embedding in zip(keys, found, strict=True):
            self._keep(key, embedding)
        return found, len(made)

    def _key(self, text: PromptText) -> Hashable:
        """Equal for texts with equal embeddings: an adapter that leaves the text encoders alone changes none."""
        touching = tuple(
            (adapter.sha256, scale)
            for adapter, scale in text.loras
            if any(component in adapter.components for component in self._family.text_encoders)
        )
        return text.text, touching

    def _keep(self, key: Hashable, embedding: TextEmbedding) -> None:
        if key in self._cache:
            self._cache.move_to_end(key)
            return
        self._cache[key] = embedding
        self._num_bytes += embedding.num_bytes
        while self._num_bytes > self._max_bytes:
            _, dropped = self._cache.popitem(last=False)
            self._num_bytes -= dropped.num_bytes
