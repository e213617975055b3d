"""Embed a catalogue offline: items.arrow in, vectors.f16 out, nothing embedded twice.

`python -m encoder_service.embed --bundle DIR --items items.arrow --cache DIR --out DIR`
"""

import io
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.ipc
import typer
import xxhash
from numpy.typing import NDArray

from encoder_service.bundle import EncoderBundle, load_bundle
from encoder_service.embed_workers import embed_workers, load_checked
from encoder_service.encoder import Encoder
from encoder_service.item_text import ItemTemplate
from encoder_service.probe_queries import PROBE_SEED, read_queries, words_of
from encoder_service.settings import ReferenceSettings
from encoder_service.vector_cache import Hashes, VectorCache, hashes_of
from protos.vitrine.v1.types_pb2 import Item
from rpc.errors import DataLoss
from rpc.files import replace_file, sync_folder
from rpc.settings import read_settings
from rpc.terminal import CommandError, errors_as_sentences, print_result, progress_bar

FORMAT_VERSION = 1
VECTORS_FILE = "vectors.f16"
PROBES_FILE = "probes.npy"
EMBED_FILE = "embed.json"
NUM_PROBES_MAX = 256
NUM_QUERIES_MAX = 512
# Texts held in memory at once, sorted by length within.
WINDOW_TEXTS = 16_384
# Texts that one worker embeds before they are written.
PORTION_TEXTS = 64
_HASH_CHUNK_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Items:
    """The items file: batches read from the page cache, one at a time."""

    path: Path
    batches: pa.RecordBatchFileReader
    count: int

    def texts(self, template: ItemTemplate, prompt: str) -> Iterator[list[str]]:
        """Yield the final texts of each batch of items, prompt included."""
        for number in range(self.batches.num_record_batches):
            serialized = self.batches.get_batch(number).column("item").to_pylist()
            yield [prompt + template.render(Item.FromString(item)) for item in serialized]

    def title(self, row: int, starts: NDArray[np.int64]) -> str:
        """Return the title of one row; `starts` has the first row of each batch."""
        number = int(np.searchsorted(starts, row, side="right")) - 1
        column = self.batches.get_batch(number).column("item")
        return Item.FromString(column[row - int(starts[number])].as_py()).title


def embed(
    bundle: EncoderBundle,
    items_path: Path,
    cache_folder: Path,
    out: Path,
    ray: str = "",
    limits: ReferenceSettings | None = None,
    queries: Path | None = None,
) -> dict[str, Any]:
    """Write vectors.f16, probes.npy and embed.json; return what was done.

    Args:
        bundle: of the encoder.
        items_path: the items file.
        cache_folder: where vectors are kept between builds.
        out: the folder to write to.
        ray: address of the Ray cluster that embeds; empty for this machine's cores.
        limits: how close to its recorded vectors the bundle must come wherever it embeds; None
            takes them from the environment, as the service does.
        queries: file of the queries that recall is to be measured with, one a line; None makes
            some of words of titles.

    Raises:
        DataLoss: the bundle or the items file is damaged.
        CommandError: the items file is missing, or the cluster; or the bundle makes other vectors
            on a processor than it should; or there are no queries in their file.
    """
    started_s = time.perf_counter()
    items = open_items(items_path)
    out.mkdir(parents=True, exist_ok=True)
    limits = limits or read_settings(ReferenceSettings, flags=False)
    given = read_queries(queries, NUM_QUERIES_MAX) if queries else []
    identity = {
        "encoder_id": bundle.encoder_id,
        "items_xxh3": _file_hash(items_path),
        "queries_xxh3": _queries_hash(given),
        "cache": _cache_name(bundle, limits),
    }
    if _is_done(out, identity, items.count, bundle.dim):
        # What the bundle says beside its identity may have changed since.
        _write_description(out, bundle, items.count, identity)
        return _result(bundle, items.count, 0, items.count, started_s)
    # What this says would be of files that are no more.
    (out / EMBED_FILE).unlink(missing_ok=True)
    encoder = load_checked(bundle, limits)
    cache_folder = cache_folder / identity["cache"]
    hashes = _hash_items(items, bundle)
    cache = VectorCache(cache_folder, bundle.dim)
    embedded = _embed_missing(encoder, items, hashes, cache, ray, limits)
    _write_vectors(out, hashes, VectorCache(cache_folder, bundle.dim))
    _write_probes(out, encoder, given or _words_of_titles(items))
    _write_description(out, bundle, items.count, identity)
    return _result(bundle, items.count, embedded, items.count - embedded, started_s)


def open_items(path: Path) -> Items:
    """Open an items file.

    Raises:
        DataLoss: it is not one.
        CommandError: it is missing.
    """
    try:
        batches = pa.ipc.open_file(pa.memory_map(str(path)))
        if "item" not in batches.schema.names:
            raise DataLoss(str(path), "has no column item: it is not an export of the catalogue")
        counts = [
            batches.get_batch(number).num_rows for number in range(batches.num_record_batches)
        ]
    except FileNotFoundError as exc:
        raise CommandError(f"there is no items file {path}; run the export first") from exc
    except pa.ArrowInvalid as exc:
        raise DataLoss(str(path), f"is not an Arrow file: {exc}") from exc
    return Items(path, batches, sum(counts))


def _hash_items(items: Items, bundle: EncoderBundle) -> Hashes:
    """Return the hash of every item's text, in row order: 16 bytes an item."""
    template = ItemTemplate.parse(bundle.item_template)
    parts: list[Hashes] = []
    with progress_bar("reading items", total=items.count) as advance:
        for texts in items.texts(template, bundle.prompts.item):
            parts.append(hashes_of(texts))
            advance(len(texts))
    return np.concatenate(parts) if parts else hashes_of([])


def _cache_name(bundle: EncoderBundle, limits: ReferenceSettings) -> str:
    """Return the folder of a bundle's vectors; those that nothing vouches for lie apart."""
    unchecked = limits.serve_below_reference_cosine
    return f"{bundle.encoder_id}-unchecked" if unchecked else bundle.encoder_id


def _embed_missing(
    encoder: Encoder,
    items: Items,
    hashes: Hashes,
    cache: VectorCache,
    ray: str,
    limits: ReferenceSettings,
) -> int:
    """Embed every text that the cache lacks, once; return how many."""
    first_rows = _first_rows(hashes)
    missing = np.zeros(len(hashes), dtype=np.bool_)
    missing[first_rows] = cache.find(hashes[first_rows]) < 0
    count = int(missing.sum())
    if not count:
        return 0
    with (
        progress_bar("embedding", total=count) as advance,
        cache.writer() as writer,
        embed_workers(encoder, ray, limits) as embed_portions,
    ):
        for window in _windows(items, encoder.bundle, missing):
            portions = _portions(window)
            vectors = embed_portions([[text for text, _ in portion] for portion in portions])
            for portion, embedded in zip(portions, vectors, strict=True):
                writer.append(hashes[[row for _, row in portion]], embedded)
                advance(len(portion))
    return count


def _windows(
    items: Items, bundle: EncoderBundle, missing: NDArray[np.bool_]
) -> Iterator[list[tuple[str, int]]]:
    """Yield missing texts with their rows, a bounded number at a time."""
    template = ItemTemplate.parse(bundle.item_template)
    window: list[tuple[str, int]] = []
    row = 0
    for texts in items.texts(template, bundle.prompts.item):
        wanted = np.flatnonzero(missing[row : row + len(texts)])
        window += [(texts[place], row + int(place)) for place in wanted]
        row += len(texts)
        if len(window) >= WINDOW_TEXTS:
            yield window
            window = []
    if window:
        yield window


def _portions(window: list[tuple[str, int]]) -> list[list[tuple[str, int]]]:
    """Return a window in portions, longest texts first, so that all threads end together."""
    ordered = sorted(window, key=lambda entry: len(entry[0]), reverse=True)
    return [ordered[at : at + PORTION_TEXTS] for at in range(0, len(ordered), PORTION_TEXTS)]


def _first_rows(hashes: Hashes) -> NDArray[np.int64]:
    """Return the first row of each distinct text, ascending."""
    order = np.lexsort((hashes["low"], hashes["high"]))
    ordered = hashes[order]
    first = np.ones(len(order), dtype=np.bool_)
    first[1:] = ordered[1:] != ordered[:-1]
    return np.sort(order[first])


def _write_vectors(out: Path, hashes: Hashes, cache: VectorCache) -> None:
    """Write row i of vectors.f16 for row i of the items."""
    # One name, so that what a full disk or a kill left of it is written over.
    aside = out / f".{VECTORS_FILE}"
    with (
        progress_bar("writing vectors", total=len(hashes)) as advance,
        aside.open("wb") as file,
    ):
        for start in range(0, len(hashes), WINDOW_TEXTS):
            part = hashes[start : start + WINDOW_TEXTS]
            positions = cache.find(part)
            assert (positions >= 0).all()
            file.write(cache.read(positions).tobytes())
            advance(len(part))
        file.flush()
        os.fsync(file.fileno())
    aside.replace(out / VECTORS_FILE)
    sync_folder(out)


def _write_probes(out: Path, encoder: Encoder, queries: Sequence[str]) -> None:
    """Write the vectors of probe queries: float32, shape (n, dim)."""
    prompt = encoder.bundle.prompts.query
    with progress_bar("embedding probe queries", total=len(queries)) as advance:
        vectors = np.empty((len(queries), encoder.bundle.dim), dtype=np.float32)
        for start in range(0, len(queries), PORTION_TEXTS):
            some = queries[start : start + PORTION_TEXTS]
            vectors[start : start + len(some)] = encoder.encode([prompt + each for each in some])
            advance(len(some))
    # Into memory first: NumPy's own writing to a file does not say why it failed.
    content = io.BytesIO()
    np.save(content, vectors, allow_pickle=False)
    replace_file(out / PROBES_FILE, content.getvalue())


def _words_of_titles(items: Items) -> list[str]:
    """Return short queries made of some of the items' titles, spread over all of them."""
    rng = np.random.default_rng(PROBE_SEED)
    count = min(items.count, NUM_PROBES_MAX)
    rows = np.sort(rng.choice(max(items.count, 1), size=count, replace=False))
    starts = _batch_starts(items)
    titles = [items.title(int(row), starts) for row in rows]
    return [words_of(title, rng) for title in titles]


def _batch_starts(items: Items) -> NDArray[np.int64]:
    counts = [
        items.batches.get_batch(number).num_rows
        for number in range(items.batches.num_record_batches)
    ]
    return np.concatenate(([0], np.cumsum(counts)))[:-1].astype(np.int64)


def _write_description(
    out: Path, bundle: EncoderBundle, count: int, identity: dict[str, str]
) -> None:
    document = {
        "format_version": FORMAT_VERSION,
        **identity,
        "name": bundle.name,
        "dim": bundle.dim,
        "item_template": bundle.item_template,
        "items": count,
        "compatible_query_encoders": list(bundle.compatible_query_encoders),
    }
    replace_file(out / EMBED_FILE, orjson.dumps(document, option=orjson.OPT_INDENT_2))


def _is_done(out: Path, identity: dict[str, str], count: int, dim: int) -> bool:
    """Tell whether a run before this one finished the same work."""
    try:
        document = orjson.loads((out / EMBED_FILE).read_bytes())
        size = (out / VECTORS_FILE).stat().st_size
        probes = (out / PROBES_FILE).is_file()
    except (OSError, orjson.JSONDecodeError):
        return False
    same = isinstance(document, dict) and identity.items() <= document.items()
    return same and probes and size == count * dim * 2


def _queries_hash(queries: Sequence[str]) -> str:
    return xxhash.xxh3_128_hexdigest("\n".join(queries).encode()) if queries else ""


def _file_hash(path: Path) -> str:
    digest = xxhash.xxh3_128()
    with path.open("rb") as file:
        while chunk := file.read(_HASH_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _result(
    bundle: EncoderBundle, items: int, embedded: int, reused: int, started_s: float
) -> dict[str, Any]:
    seconds = time.perf_counter() - started_s
    return {
        "items": items,
        "embedded": embedded,
        "reused": reused,
        "seconds": round(seconds, 2),
        "encoder_id": bundle.encoder_id,
        "texts_per_s": round(embedded / seconds, 1),
    }


def main(
    bundle: Annotated[Path, typer.Option(help="Folder of the encoder bundle.")],
    items: Annotated[Path, typer.Option(help="The items file that the export wrote.")],
    cache: Annotated[Path, typer.Option(help="Folder of vectors kept between builds.")],
    out: Annotated[Path, typer.Option(help="Folder to write the vectors to.")],
    ray: Annotated[
        str,
        typer.Option(
            metavar="ADDRESS",
            help="Embed on the Ray cluster there, host:port, or on one started here: local. All "
            "its machines must see the bundle at the same path.",
        ),
    ] = "",
    queries: Annotated[
        Path | None,
        typer.Option(
            help="Queries to measure recall with, one a line; words of titles when left out."
        ),
    ] = None,
) -> None:
    """Embed a catalogue."""
    # The threads here already fill every core.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    with errors_as_sentences():
        with progress_bar("checking the bundle", total=None):
            loaded = load_bundle(bundle)
        print_result(embed(loaded, items, cache, out, ray, queries=queries))


if __name__ == "__main__":
    typer.run(main)
