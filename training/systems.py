"""Systems over a collection, as `training.system_notation` writes them, ready to search."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rpc.terminal import CommandError
from training.baselines import Bm25, Bm25Parameters, tokenize, tune
from training.beir import Collection
from training.embeddings import TextEncoder, embed_as, open_encoder
from training.fusion import (
    Hits,
    best_of,
    ranked,
    reciprocal_ranks,
    weighted_scores,
)
from training.hnsw import ann_recall, hnsw_graph, hnsw_search
from training.latency import lone_ms, median_ms
from training.ranking import evaluate, exact_top_k, run_of
from training.reranking import Pair, PairScorer, open_scorer, rerank, score_once
from training.short_queries import is_short, typed_for
from training.system_notation import HITS_MAX, Written

Floats = NDArray[np.float32]
Search = Callable[[Sequence[str]], Hits]
VectorSearch = Callable[[Floats], Hits]

TUNED_ON = "recall@10"
LEXICAL_WEIGHTS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0)
ALPHAS = tuple(round(0.05 * step, 2) for step in range(21))
RERANK_DEPTH = 50
TIMED_QUERIES = 20


@dataclass(frozen=True, slots=True)
class Opened:
    """A system over the items of a collection, and what is worth knowing about it.

    Attributes:
        search: finds.
        note: how it was set.
        p50_ms: what its own part takes for one query alone, as {"encode": 3.1, "search": 0.4},
            measured anew. A search is that for 100 hits, on one thread, of a vector that is known.
        options: what it is set to, as {"alpha": 0.55} or {"dim": 256, "ef_search": 64}.
        tuned: dev chose that.
        ann_recall: share of the exact first ten that it finds, 0..1; None where it searches
            exactly, or for fewer.
        reranked: a cross-encoder is part of it, so that a search takes long.
    """

    search: Search
    note: str
    p50_ms: Mapping[str, float] = field(default_factory=dict)
    options: Mapping[str, float] = field(default_factory=dict)
    tuned: bool = False
    ann_recall: float | None = None
    reranked: bool = False


@dataclass(frozen=True, slots=True)
class Ground:
    """What systems are opened on.

    Attributes:
        collection: items to search, and the queries to answer.
        dev: queries over the same items to tune on; None: nothing is tuned.
        same_title: the items that answer a query count as one.
        cache: folder of embeddings and scores of pairs.
        few_of_dev: some of dev's queries, on which fusions with a reranking are tuned; None: on
            all.
        encoders, scorers: those that are open, by source.
        graphs: HNSW graphs that are built, by source and dimensions of their items.
    """

    collection: Collection
    dev: Collection | None
    same_title: bool
    cache: Path
    few_of_dev: Collection | None = None
    encoders: dict[str, TextEncoder] = field(default_factory=dict)
    scorers: dict[str, PairScorer] = field(default_factory=dict)
    graphs: dict[tuple[str, int], Any] = field(default_factory=dict)

    def encoder(self, source: str) -> TextEncoder:
        """Return an encoder, opened once."""
        if source not in self.encoders:
            self.encoders[source] = open_encoder(source)
        return self.encoders[source]

    def graph(self, holder: str, items: Floats) -> Any:
        """Return an HNSW graph over items, built once for every ef_search.

        Args:
            holder: source of the encoder of the items.
            items: float32, their vectors, shape (n, dim).
        """
        key = (holder, items.shape[1])
        if key not in self.graphs:
            self.graphs[key] = hnsw_graph(items)
        return self.graphs[key]

    def worth_on_dev(self, hits: Hits) -> float:
        """Return recall@10 of what was found for the queries of dev."""
        assert self.dev is not None
        run = run_of(self.dev.query_ids, self.dev.item_ids, hits.rows)
        return evaluate(self.dev.qrels, run, [TUNED_ON], as_one=self.same_title).means[TUNED_ON]


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
    if system.kind == "rerank":
        return _open_reranking(system, ground, opened[system.parts[0]].search)
    dense, lexical = (opened[name] for name in system.parts)
    return _open_fusion(system, ground, dense, lexical)


def _open_bm25(system: Written, ground: Ground) -> Opened:
    """Return BM25, tuned where there is a dev split and nothing is given."""
    tokenized = tokenize(ground.collection.item_texts)
    dev = ground.dev
    if system.options or dev is None:
        index, tuned = Bm25(tokenized, Bm25Parameters(**system.options)), False
    else:
        best, _ = tune(
            tokenized,
            lambda tried: ground.worth_on_dev(Hits(*tried.search(dev.query_texts, 10))),
        )
        index, tuned = Bm25(tokenized, best), True
    k1, b = index.parameters.k1, index.parameters.b
    return Opened(
        lambda queries: Hits(*index.search(queries, HITS_MAX)),
        f"k1 {k1}, b {b}, {_how_set(tuned)}",
        {"search": lone_ms(lambda text: index.search([text], HITS_MAX), _timed(ground))},
        options={"k1": k1, "b": b},
        tuned=tuned,
    )


def _timed(ground: Ground) -> Sequence[str]:
    """Return the queries that systems are timed on."""
    return ground.collection.query_texts[:TIMED_QUERIES]


def _how_set(tuned: bool, few: Collection | None = None) -> str:
    if not tuned:
        return "as given"
    return f"tuned on {len(few.query_ids)} queries of dev" if few else "tuned on dev"


def _open_encoder(system: Written, ground: Ground) -> Opened:
    encoder = ground.encoder(system.source)
    holder = ground.encoder(system.items) if system.items else encoder
    dim = _dim_of(system, encoder, holder)
    items = first_dims(embed_as(holder, "item", ground.collection.item_texts, ground.cache), dim)

    def vectors_of(queries: Sequence[str]) -> Floats:
        return first_dims(embed_as(encoder, "query", queries, ground.cache), dim)

    asked = vectors_of(ground.collection.query_texts)
    find, how, kept = _search_over(items, system, ground, asked)
    prompted = [encoder.prompts["query"] + text for text in _timed(ground)]
    p50_ms = {
        "encode": median_ms(lambda text: encoder.encode([text]), prompted),
        "search": lone_ms(find, [vector[np.newaxis] for vector in asked[:TIMED_QUERIES]]),
    }
    items_by = f", items by {holder.name}" if system.items else ""
    return Opened(
        lambda queries: find(vectors_of(queries)),
        f"{dim} dimensions{items_by}, {how}",
        p50_ms,
        options={**system.options, "dim": dim},
        ann_recall=kept,
    )


def _dim_of(system: Written, encoder: TextEncoder, holder: TextEncoder) -> int:
    """Return the number of dimensions to compare.

    Raises:
        CommandError: queries' and items' encoders do not fit each other, or it is too large.
    """
    if holder.dim != encoder.dim:
        raise CommandError(
            f"{system.name}: {system.source} has {encoder.dim} dimensions and {system.items} "
            f"{holder.dim}; queries and items must lie in one space"
        )
    dim = int(system.options.get("dim", encoder.dim))
    if dim > encoder.dim:
        raise CommandError(f"{system.name}: dim is {dim}; allowed 1..{encoder.dim}")
    return dim


def _search_over(
    items: Floats, system: Written, ground: Ground, asked: Floats
) -> tuple[VectorSearch, str, float | None]:
    """Return a search over items, how it searches, and its ann_recall@10 where that can be told.

    Args:
        items: shape (n, dim).
        system: whose items they are.
        ground: keeps the graph.
        asked: queries to measure with, shape (q, dim).
    """
    if "ef_search" not in system.options:
        return lambda vectors: Hits(*exact_top_k(vectors, items, HITS_MAX)), "exact", None
    ef_search = int(system.options["ef_search"])
    approximate = hnsw_search(ground.graph(system.items or system.source, items), ef_search)
    kept = ann_recall(approximate(asked).rows, exact_top_k(asked, items, 10)[0])
    said = "" if kept is None else f", ann_recall@10 {kept:.4f}"
    return approximate, f"HNSW, ef_search {ef_search}{said}", kept


def first_dims(vectors: Floats, dim: int) -> Floats:
    """Return unit rows of the first dimensions alone."""
    if dim == vectors.shape[1]:
        return vectors
    cut = vectors[:, :dim]
    lengths: Floats = np.linalg.norm(cut, axis=1, keepdims=True)
    unit: Floats = (cut / np.maximum(lengths, np.finfo(np.float32).tiny)).astype(np.float32)
    return unit


def _open_fusion(system: Written, ground: Ground, first: Opened, second: Opened) -> Opened:
    """Return two systems as one, at the weights that are given, or that dev chooses."""
    dense, lexical = first.search, second.search
    reranked = first.reranked or second.reranked
    few = ground.few_of_dev if reranked else None
    if few:
        ground = replace(ground, dev=few)
    tuned = not system.options and ground.dev is not None
    if system.kind == "rrf":
        options = {"lexical_weight": 1.0, **system.options}
        if tuned:
            options = _tune_rrf(ground, dense, lexical)
    else:
        alpha = system.options.get("alpha", 0.5)
        options = {"alpha": alpha, "short_alpha": alpha, **system.options}
        if tuned:
            options = _tune_weighted(ground, dense, lexical)

    def fuse(queries: Sequence[str], left: Hits, right: Hits) -> Hits:
        if system.kind == "rrf":
            weight = options["lexical_weight"]
            fused = reciprocal_ranks(left, right, weight)
        else:
            names = ("short_alpha" if is_short(query) else "alpha" for query in queries)
            alphas = [options[name] for name in names]
            fused = weighted_scores(left, right, alphas)
        return ranked(fused, min(left.rows.shape[1], right.rows.shape[1]))

    timed = _timed(ground)
    left, right = dense(timed), lexical(timed)
    alone = [([text], left.of(place), right.of(place)) for place, text in enumerate(timed)]
    names = " and ".join(system.parts)
    shown = ", ".join(f"{name} {value:g}" for name, value in options.items())
    return Opened(
        lambda queries: fuse(queries, dense(queries), lexical(queries)),
        f"{names}, {shown}, {_how_set(tuned, few)}",
        {"fuse": lone_ms(lambda each: fuse(*each), alone)},
        options=options,
        tuned=tuned,
        reranked=reranked,
    )


def _tune_rrf(ground: Ground, dense: Search, lexical: Search) -> dict[str, float]:
    assert ground.dev is not None
    left, right = dense(ground.dev.query_texts), lexical(ground.dev.query_texts)
    weight = best_of(
        LEXICAL_WEIGHTS,
        lambda tried: ground.worth_on_dev(ranked(reciprocal_ranks(left, right, tried), 10)),
    )
    return {"lexical_weight": weight}


def _tune_weighted(ground: Ground, dense: Search, lexical: Search) -> dict[str, float]:
    """Return alpha, and that of short queries.

    Reviews are long; so for short queries words of the titles that they praise are asked instead.
    """
    assert ground.dev is not None

    def best_alpha(queries: Sequence[str]) -> float:
        left, right = dense(queries), lexical(queries)
        return best_of(
            ALPHAS,
            lambda tried: ground.worth_on_dev(ranked(weighted_scores(left, right, tried), 10)),
        )

    alpha = best_alpha(ground.dev.query_texts)
    short = best_alpha(typed_for(ground.dev)) if ground.same_title else alpha
    return {"alpha": alpha, "short_alpha": short}


def _open_reranking(system: Written, ground: Ground, first: Search) -> Opened:
    """Return the first hits of another system by a cross-encoder; the others stay behind them."""
    if system.source not in ground.scorers:
        ground.scorers[system.source] = open_scorer(system.source)
    scorer = ground.scorers[system.source]
    depth = int(system.options.get("depth", RERANK_DEPTH))
    texts = ground.collection.item_texts

    def pairs_of(queries: Sequence[str], hits: Hits) -> list[list[Pair]]:
        return [
            [(query, texts[row]) for row in rows if row >= 0]
            for query, rows in zip(queries, hits.rows[:, :depth].tolist(), strict=True)
        ]

    def search(queries: Sequence[str]) -> Hits:
        found = first(queries)
        pairs = pairs_of(queries, found)
        what = f"pairs by {scorer.name}"
        flat = score_once(scorer, [pair for each in pairs for pair in each], ground.cache, what)
        ends = np.cumsum([len(each) for each in pairs])
        return rerank(found, np.split(flat, ends[:-1]))

    timed = _timed(ground)
    p50_ms = {"rerank": median_ms(scorer.score, pairs_of(timed, first(timed)))}
    note = f"{system.parts[0]}, first {depth} by {scorer.name}"
    return Opened(search, note, p50_ms, reranked=True)
