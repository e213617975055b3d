"""What can be compared: BM25, encoders with exact or HNSW search, and fusions of two systems.

A system is written as

    bm25                    or bm25?k1=1.2&b=0.9; tuned on dev where nothing is given
    PATH                    a bi-encoder or an encoder bundle, exact search
    PATH?dim=256            its first dimensions alone
    PATH?ef_search=64       through a FAISS HNSW index; both can be joined by &
    rrf:DENSE+LEXICAL       two systems named before; or rrf:A+B?lexical_weight=0.5
    weighted:DENSE+LEXICAL  the same by scores; or weighted:A+B?alpha=0.7

and `NAME=SYSTEM` gives it a name. Weights that are not given are tuned on dev.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rpc.terminal import CommandError
from training.baselines import Bm25, Bm25Parameters, tokenize, tune
from training.beir import Collection
from training.embeddings import TextEncoder, embed, open_encoder
from training.fusion import Hits, best_of, ranked, reciprocal_ranks, weighted_scores
from training.ranking import evaluate, exact_top_k, run_of

Floats = NDArray[np.float32]
Search = Callable[[Sequence[str]], Hits]

DEPTH = 100
TUNED_ON = "recall@10"
HNSW_M = 32
HNSW_EF_CONSTRUCTION = 200
LEXICAL_WEIGHTS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0)
ALPHAS = tuple(round(0.05 * step, 2) for step in range(8, 20))
_RANGES = {
    "k1": (0.0, 10.0), "b": (0.0, 1.0), "dim": (1, 1 << 16), "ef_search": (1, 1 << 16),
    "lexical_weight": (0.0, 100.0), "alpha": (0.0, 1.0),
}  # fmt: skip
_KEYS = {
    "bm25": ("k1", "b"),
    "encoder": ("dim", "ef_search"),
    "rrf": ("lexical_weight",),
    "weighted": ("alpha",),
}


@dataclass(frozen=True, slots=True)
class Written:
    """A system as it is written.

    Attributes:
        name: what the report calls it.
        kind: "bm25", "encoder", "rrf" or "weighted".
        source: path or id of an encoder.
        parts: names of the dense and the lexical system that are fused.
        options: what stands behind the question mark.
    """

    name: str
    kind: str
    source: str
    parts: tuple[str, ...]
    options: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Opened:
    """A system over the items of a collection, and what is worth knowing about it."""

    search: Search
    note: str


@dataclass(frozen=True, slots=True)
class Ground:
    """What systems are opened on.

    Attributes:
        collection: items to search, and the queries to answer.
        dev: queries over the same items to tune on; None: nothing is tuned.
        same_title: the items that answer a query count as one.
        cache: folder of embeddings.
        encoders: those that are open, by source.
    """

    collection: Collection
    dev: Collection | None
    same_title: bool
    cache: Path
    encoders: dict[str, TextEncoder] = field(default_factory=dict)

    def worth_on_dev(self, hits: Hits) -> float:
        """Return recall@10 of what was found for the queries of dev."""
        assert self.dev is not None
        run = run_of(self.dev.query_ids, self.dev.item_ids, hits.rows)
        return evaluate(self.dev.qrels, run, [TUNED_ON], as_one=self.same_title).means[TUNED_ON]


def parse_systems(written: Sequence[str]) -> list[Written]:
    """Return the systems, each with a name of its own.

    Raises:
        CommandError: one cannot be understood, or has the name of another.

    >>> [(s.name, s.kind) for s in parse_systems(["bm25", "ours=runs/a/model", "rrf:ours+bm25"])]
    [('bm25', 'bm25'), ('ours', 'encoder'), ('rrf', 'rrf')]
    """
    systems: dict[str, Written] = {}
    for text in written:
        system = _parse(text)
        if system.name in systems:
            raise CommandError(f"two systems are called {system.name}; write NAME={text}")
        for part in system.parts:
            if part not in systems:
                raise CommandError(
                    f"{text}: {part!r} is no system named before it; there are "
                    f"{', '.join(systems) or 'none'}"
                )
        systems[system.name] = system
    return list(systems.values())


def open_system(system: Written, ground: Ground, opened: Mapping[str, Opened]) -> Opened:
    """Return a system ready to search.

    Args:
        system: what to open.
        ground: what to search in.
        opened: the systems before it, by name.
    """
    if system.kind == "bm25":
        return _open_bm25(system, ground)
    if system.kind == "encoder":
        return _open_encoder(system, ground)
    dense, lexical = (opened[name] for name in system.parts)
    return _open_fusion(system, ground, dense.search, lexical.search)


def _open_bm25(system: Written, ground: Ground) -> Opened:
    """Return BM25, tuned where there is a dev split and nothing is given."""
    tokenized = tokenize(ground.collection.item_texts)
    dev = ground.dev
    if system.options or dev is None:
        index, note = Bm25(tokenized, Bm25Parameters(**system.options)), "as given"
    else:
        best, _ = tune(
            tokenized,
            lambda tried: ground.worth_on_dev(Hits(*tried.search(dev.query_texts, 10))),
        )
        index, note = Bm25(tokenized, best), "tuned on dev"
    return Opened(
        lambda queries: Hits(*index.search(queries, DEPTH)),
        f"k1 {index.parameters.k1}, b {index.parameters.b}, {note}",
    )


def _open_encoder(system: Written, ground: Ground) -> Opened:
    if system.source not in ground.encoders:
        ground.encoders[system.source] = open_encoder(system.source)
    encoder = ground.encoders[system.source]
    dim = int(system.options.get("dim", encoder.dim))
    if dim > encoder.dim:
        raise CommandError(f"{system.name}: dim is {dim}; allowed 1..{encoder.dim}")
    texts = [encoder.prompts["item"] + text for text in ground.collection.item_texts]
    items = first_dims(embed(encoder, texts, ground.cache, f"items by {encoder.name}"), dim)

    def vectors_of(queries: Sequence[str]) -> Floats:
        asked = [encoder.prompts["query"] + text for text in queries]
        return first_dims(embed(encoder, asked, ground.cache, f"queries by {encoder.name}"), dim)

    if "ef_search" not in system.options:
        return Opened(
            lambda queries: Hits(*exact_top_k(vectors_of(queries), items, DEPTH)),
            f"{dim} dimensions, exact",
        )
    ef_search = int(system.options["ef_search"])
    approximate = hnsw_search(items, ef_search)
    vectors = vectors_of(ground.collection.query_texts)
    kept = ann_recall(approximate(vectors).rows, exact_top_k(vectors, items, 10)[0])
    return Opened(
        lambda queries: approximate(vectors_of(queries)),
        f"{dim} dimensions, HNSW, ef_search {ef_search}, ann_recall@10 {kept:.4f}",
    )


def hnsw_search(items: Floats, ef_search: int) -> Callable[[Floats], Hits]:
    """Return a search through an HNSW graph over full vectors; ties by row."""
    import faiss

    index = faiss.IndexHNSWFlat(items.shape[1], HNSW_M, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = HNSW_EF_CONSTRUCTION
    index.add(np.ascontiguousarray(items))
    # FAISS widens ef_search to the number of hits: fewer are asked for where it is smaller.
    asked = min(DEPTH, len(items), ef_search)
    options = faiss.SearchParametersHNSW(efSearch=ef_search)

    def search(queries: Floats) -> Hits:
        scores, rows = index.search(np.ascontiguousarray(queries), asked, params=options)
        return Hits(rows, scores)

    return search


def ann_recall(found: NDArray[np.int64], exact: NDArray[np.int64]) -> float:
    """Return the share of the exact first hits that are among as many found.

    >>> ann_recall(np.array([[1, 2, 3]]), np.array([[1, 4]]))
    0.5
    """
    k = exact.shape[1]
    shared = (
        set(left[:k]) & set(right)
        for left, right in zip(found.tolist(), exact.tolist(), strict=True)
    )
    return sum(map(len, shared)) / exact.size


def first_dims(vectors: Floats, dim: int) -> Floats:
    """Return unit rows of the first dimensions alone."""
    if dim == vectors.shape[1]:
        return vectors
    cut = vectors[:, :dim]
    lengths: Floats = np.linalg.norm(cut, axis=1, keepdims=True)
    unit: Floats = (cut / np.maximum(lengths, np.finfo(np.float32).tiny)).astype(np.float32)
    return unit


def _open_fusion(system: Written, ground: Ground, dense: Search, lexical: Search) -> Opened:
    by_rank = system.kind == "rrf"
    key = _KEYS[system.kind][0]
    fuse = reciprocal_ranks if by_rank else weighted_scores
    value, note = system.options.get(key, 1.0 if by_rank else 0.5), "as given"
    if not system.options and ground.dev is not None:
        left, right = dense(ground.dev.query_texts), lexical(ground.dev.query_texts)
        value = best_of(
            LEXICAL_WEIGHTS if by_rank else ALPHAS,
            lambda tried: ground.worth_on_dev(ranked(fuse(left, right, tried), 10)),
        )
        note = "tuned on dev"

    def search(queries: Sequence[str]) -> Hits:
        found = dense(queries)
        return ranked(fuse(found, lexical(queries), value), found.rows.shape[1])

    names = " and ".join(system.parts)
    return Opened(search, f"{names}, {key} {value:g}, {note}")


def _parse(text: str) -> Written:
    name, source, options = _split(text)
    kind = "bm25" if source == "bm25" else "encoder"
    parts: tuple[str, ...] = ()
    if match := re.fullmatch(r"(rrf|weighted):([^+]+)\+([^+]+)", source):
        kind, parts = match[1], (match[2], match[3])
    name = name or (kind if parts else source.rstrip("/").rsplit("/", 1)[-1])
    if not re.fullmatch(r"[\w.-]{1,64}", name):
        raise CommandError(f"system name is {name!r}; allowed letters, digits, '.', '_', '-'")
    return Written(name, kind, source, parts, _parse_options(text, options, _KEYS[kind]))


def _split(text: str) -> tuple[str, str, str]:
    """Return name, source and options of `NAME=SOURCE?OPTIONS`.

    >>> _split("a=runs/b?dim=2"), _split("bm25?k1=1")
    (('a', 'runs/b', 'dim=2'), ('', 'bm25', 'k1=1'))
    """
    before, _, options = text.partition("?")
    name, equals, source = before.partition("=")
    return (name, source, options) if equals else ("", before, options)


def _parse_options(text: str, options: str, keys: Sequence[str]) -> dict[str, float]:
    found: dict[str, float] = {}
    for part in filter(None, options.split("&")):
        key, _, value = part.partition("=")
        if key not in keys:
            raise CommandError(f"{text}: {key!r} is no option of it; allowed {', '.join(keys)}")
        low, high = _RANGES[key]
        try:
            found[key] = float(value)
        except ValueError:
            found[key] = float("nan")
        if not low <= found[key] <= high:
            raise CommandError(f"{text}: {key} is {value!r}; allowed {low}..{high}")
    return found
