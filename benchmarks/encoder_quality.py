"""How near a system's vectors are to full precision, and what they find of what was judged."""

import hashlib
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.encoder_worker import Worker
from rpc.terminal import progress_bar
from training.beir import Collection
from training.ranking import evaluate_vectors

Floats = NDArray[np.float32]
Bases = dict[str, Mapping[str, float]]
Embed = Callable[[Sequence[str]], Floats]


_PORTION_TEXTS = 1_000
"""What an interrupted run loses of a corpus at most."""


class EmbeddingsCache:
    """Vectors on disk, named after the model's content and the texts."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def path(self, model: str, texts: Sequence[str]) -> Path:
        """Return where vectors are kept, whether they are there or not."""
        digest = hashlib.sha256("\0".join(texts).encode()).hexdigest()
        return self._folder / f"{model[:12]}-{digest[:12]}.npy"

    def embedded(
        self, model: str, texts: Sequence[str], worker: Worker, together: int = 1
    ) -> Floats:
        """Return vectors, made by the worker, so many texts at once, unless they are there."""
        path = self.path(model, texts)
        if not path.exists():
            portions = self._portions(path, model, texts, worker, together)
            aside = path.with_suffix(".part.npy")
            np.save(aside, np.concatenate([np.load(portion) for portion in portions]))
            aside.rename(path)
            shutil.rmtree(path.with_suffix(".portions"))
        found: Floats = np.load(path)
        return found

    def _portions(
        self, path: Path, model: str, texts: Sequence[str], worker: Worker, together: int
    ) -> list[Path]:
        """Return files of the vectors of some texts each; those that are there are kept."""
        folder = path.with_suffix(".portions")
        folder.mkdir(parents=True, exist_ok=True)
        portions = []
        with progress_bar(f"embedding by {model[:12]}", total=len(texts)) as advance:
            for start in range(0, len(texts), _PORTION_TEXTS):
                some = texts[start : start + _PORTION_TEXTS]
                portions.append(folder / f"{start}.npy")
                if not portions[-1].exists():
                    aside = folder / "aside.npy"
                    worker.embed(some, aside, together)
                    aside.rename(portions[-1])
                advance(len(some))
        return portions


def content_hash(*paths: Path) -> str:
    """Return the SHA-256 of files one after another."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    return digest.hexdigest()


def quality(
    collection: Collection, full: Embed, own: Embed, own_part: Collection | None, bases: Bases
) -> dict[str, Any]:
    """Return cosine, recall@10 and ndcg@10 of a system, and of full precision beside it.

    Args:
        collection: what is searched and judged.
        full: embeds in full precision.
        own: embeds with the system.
        own_part: the collection, or a part of it, whose items the system embeds itself; None
            leaves that out.
        bases: what full precision finds, kept from one system to the next.
    """
    references, queries = full(collection.query_texts), own(collection.query_texts)
    items = full(collection.item_texts)
    cosines = (references.astype(np.float64) * queries.astype(np.float64)).sum(axis=1)
    found = {
        "cosine_mean": round(float(cosines.mean()), 6),
        "cosine_min": round(float(cosines.min()), 6),
        "queries": len(collection.query_ids),
        **_pairing("over_fp32_items", collection, (references, items), (queries, items), bases),
    }
    if own_part is not None:
        rows = _rows(own_part.query_ids, collection.query_ids)
        base = references[rows], items[_rows(own_part.item_ids, collection.item_ids)]
        here = queries[rows], own(own_part.item_texts)
        found |= _pairing("over_own_items", own_part, base, here, bases)
    return found


def part_to_embed(collection: Collection, own_items: int) -> Collection | None:
    """Return the first items and the queries that any of them is relevant to; None without any."""
    if own_items == 0:
        return None
    if own_items >= len(collection.item_ids):
        return collection
    kept = frozenset(collection.item_ids[:own_items])
    qrels = {
        query_id: {item_id: grade for item_id, grade in judged.items() if item_id in kept}
        for query_id, judged in collection.qrels.items()
        if any(grade >= 1 and item_id in kept for item_id, grade in judged.items())
    }
    rows = [row for row, query_id in enumerate(collection.query_ids) if query_id in qrels]
    return replace(
        collection,
        item_ids=collection.item_ids[:own_items],
        item_texts=collection.item_texts[:own_items],
        query_ids=tuple(collection.query_ids[row] for row in rows),
        query_texts=tuple(collection.query_texts[row] for row in rows),
        qrels=qrels,
    )


def _rows(some: Sequence[str], ids: Sequence[str]) -> list[int]:
    places = {each: row for row, each in enumerate(ids)}
    return [places[each] for each in some]


def _pairing(
    name: str,
    collection: Collection,
    full: tuple[Floats, Floats],
    own: tuple[Floats, Floats],
    bases: Bases,
) -> dict[str, Any]:
    """Return what a system's queries find over items, and the loss to full precision in %."""
    key = f"{len(collection.query_ids)} queries, {len(collection.item_ids)} items"
    if key not in bases:
        bases[key] = evaluate_vectors(collection, *full).means
    base, here = bases[key], evaluate_vectors(collection, *own).means
    found: dict[str, Any] = {
        f"items_{name}": len(collection.item_ids),
        f"queries_{name}": len(collection.query_ids),
    }
    for measure in base:
        plain = measure.replace("@", "_at_")
        found[f"{plain}_{name}"] = round(here[measure], 5)
        found[f"{plain}_{name}_lost_percent"] = round(100 * (1 - here[measure] / base[measure]), 3)
    return found
