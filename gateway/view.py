"""One generation as one search sees it: a snapshot that nothing changes under the search."""

from collections.abc import Sequence
from dataclasses import dataclass

from protos.vitrine.v1 import index_pb2


@dataclass(frozen=True, slots=True)
class GenerationView:
    """What the gateway knows of a generation that its shards hold."""

    generation: int
    encoder_id: str
    compatible_query_encoders: frozenset[str]
    dim: int
    items_total: int
    items_by_shard: tuple[int, ...]
    applied_seq: int

    @property
    def num_shards(self) -> int:
        """How many shards the generation is cut into."""
        return len(self.items_by_shard)

    def accepts(self, encoder_id: str) -> bool:
        """Tell whether queries of this encoder mean something here."""
        return encoder_id == self.encoder_id or encoder_id in self.compatible_query_encoders


def view_of(loaded: Sequence[index_pb2.LoadedGeneration | None]) -> GenerationView:
    """Return the view over what each shard holds, in shard order; None where it is not known.

    At least one shard must be known.
    """
    known = next(entry for entry in loaded if entry is not None)
    return GenerationView(
        generation=known.generation,
        encoder_id=known.encoder_id,
        compatible_query_encoders=frozenset(known.compatible_query_encoders),
        dim=known.dim,
        items_total=known.items_total,
        items_by_shard=tuple(entry.items if entry is not None else 0 for entry in loaded),
        applied_seq=min(entry.applied_seq for entry in loaded if entry is not None),
    )
