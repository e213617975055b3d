"""What the stages before this one left: items, vectors, probe queries, and what they say of it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import xxhash
from numpy.typing import NDArray

from index_service.generation.manifest import EncoderEntry
from index_service.scoring import Halves
from index_service.segment import map_halves
from rpc.errors import DataLoss
from rpc.terminal import CommandError

ITEMS_FILE = "items.arrow"
VECTORS_FILE = "vectors.f16"
PROBES_FILE = "probes.npy"
EMBED_FILE = "embed.json"
EXPORT_FILE = "export.json"
_HASHED_BYTES = 8 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class ItemBatch:
    """Some consecutive rows of items.arrow."""

    first_row: int
    item_ids: pa.Array
    items: pa.Array
    """Serialized vitrine.v1.Item."""


@dataclass(frozen=True, slots=True)
class WorkFolder:
    """A complete work folder."""

    folder: Path
    items: int
    seq: int
    encoder: EncoderEntry
    compatible_query_encoders: tuple[dict[str, Any], ...]
    queries_given: bool
    """Probe queries were given, not made of titles."""

    @classmethod
    def open(cls, folder: Path) -> "WorkFolder":
        """Read what the stages before said, and check that their files belong together.

        Raises:
            CommandError: a stage has not finished, or its files contradict each other.
        """
        export, embed = _read_json(folder / EXPORT_FILE), _read_json(folder / EMBED_FILE)
        work = cls(
            folder=folder,
            items=export["items"],
            seq=export["seq"],
            encoder=EncoderEntry(
                encoder_id=embed["encoder_id"],
                name=embed["name"],
                dim=embed["dim"],
                item_template=embed["item_template"],
            ),
            compatible_query_encoders=tuple(embed.get("compatible_query_encoders", ())),
            queries_given=bool(embed.get("queries_xxh3")),
        )
        counts = {EMBED_FILE: embed["items"], ITEMS_FILE: work.count_rows()}
        for name, count in counts.items():
            if count != work.items:
                raise CommandError(
                    f"{folder / name} speaks of {count} items, {EXPORT_FILE} of {work.items}; "
                    "run the stages before this one again"
                )
        work.vectors()
        work.probes()
        return work

    def vectors(self) -> Halves:
        """Map the vectors, shape (items, dim)."""
        try:
            return map_halves(self.folder / VECTORS_FILE, self.items, self.encoder.dim)
        except (DataLoss, FileNotFoundError) as exc:
            raise CommandError(f"{exc}; run the embed stage again") from exc

    def probes(self) -> NDArray[np.float32]:
        """Read the probe queries, shape (n, dim)."""
        path = self.folder / PROBES_FILE
        try:
            probes: NDArray[np.float32] = np.load(path, allow_pickle=False)
        except (OSError, ValueError) as exc:
            raise CommandError(f"{path}: {exc}; run the embed stage again") from exc
        if probes.ndim != 2 or probes.shape[1] != self.encoder.dim or probes.dtype != np.float32:
            raise CommandError(f"{path} holds {probes.dtype} {probes.shape}; embed again")
        if self.items and not len(probes):
            raise CommandError(f"{path} holds no queries to measure recall with; embed again")
        return probes

    def count_rows(self) -> int:
        """Count the items in items.arrow."""
        return sum(batch.num_rows for batch in self._record_batches(0, self.count_batches()))

    def count_batches(self) -> int:
        """Count the record batches in items.arrow."""
        count: int = self._reader().num_record_batches
        return count

    def batches(self, first: int = 0, after: int | None = None) -> Iterator[ItemBatch]:
        """Yield the items of some record batches.

        They are read, not mapped: a map would hold every page that was looked at.

        Args:
            first: the first record batch.
            after: the record batch to stop before; None for all.
        """
        row = sum(batch.num_rows for batch in self._record_batches(0, first))
        reader = self._reader(pa.OSFile)
        for number in range(first, self.count_batches() if after is None else after):
            batch = reader.get_batch(number)
            yield ItemBatch(row, batch.column("item_id"), batch.column("item"))
            row += batch.num_rows

    def fingerprint(self) -> str:
        """Return a hash over everything in the folder that a generation is made from."""
        digest = xxhash.xxh3_128()
        for name in (ITEMS_FILE, VECTORS_FILE, PROBES_FILE, EMBED_FILE, EXPORT_FILE):
            digest.update(name.encode())
            with (self.folder / name).open("rb") as file:
                while piece := file.read(_HASHED_BYTES):
                    digest.update(piece)
        return digest.hexdigest()

    def _record_batches(self, first: int, after: int) -> Iterator[pa.RecordBatch]:
        reader = self._reader()
        for number in range(first, after):
            yield reader.get_batch(number)

    def _reader(self, opened: Callable[[str], Any] = pa.memory_map) -> Any:
        path = self.folder / ITEMS_FILE
        try:
            return pa.ipc.open_file(opened(str(path)))
        except (OSError, pa.ArrowInvalid) as exc:
            raise CommandError(f"{path}: {exc}; run the export stage again") from exc


def _read_json(path: Path) -> dict[str, Any]:
    try:
        document: dict[str, Any] = orjson.loads(path.read_bytes())
    except FileNotFoundError as exc:
        raise CommandError(f"{path} is missing; the stage that writes it has not ended") from exc
    except orjson.JSONDecodeError as exc:
        raise CommandError(f"{path} is not JSON: {exc}; run the stage that writes it") from exc
    if (version := document.get("format_version")) != 1:
        raise CommandError(f"{path} has format_version {version!r}; this software reads 1")
    return document
