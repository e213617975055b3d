"""What `training.reproduce` compares, as `training.system_notation` writes it."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from training.baselines import K1, B
from training.bases import bundle_in, model_in
from training.recipe import DistillRecipe, Recipe, RerankerRecipe
from training.system_notation import FUSIONS, parse_systems

RERANK_DEPTHS = (20, 50, 100)
HYBRID_DEPTHS = (20, 50)
EF_SEARCH = 64
OTHER_EF_SEARCHES = (8, 16, 32, 128)
BUNDLE_EF_SEARCH = 128


def systems_of(recipes: Sequence[Recipe], out: Path) -> list[str]:
    """Return what is compared, as `training.systems` reads it; the first is the baseline.

    The first recipe's model also goes through its graph by other ef_searches, and its bundle
    through one, as it is served.

    >>> recipe = Recipe.model_validate({
    ...     "name": "best", "model": {"base": "minilm"}, "loss": {"matryoshka_dims": [128]},
    ...     "batches": {"size": 8}, "optimizer": {"learning_rate": 0.1}})
    >>> for system in systems_of([recipe], Path("o")): print(system)
    zero-shot-minilm=minilm
    bm25
    best=o/runs/best/model
    best-128=o/runs/best/model?dim=128
    best-hnsw=o/runs/best/model?ef_search=64
    best-hnsw-8=o/runs/best/model?ef_search=8
    best-hnsw-16=o/runs/best/model?ef_search=16
    best-hnsw-32=o/runs/best/model?ef_search=32
    best-hnsw-128=o/runs/best/model?ef_search=128
    best-bundle=o/bundles/best
    best-bundle-hnsw=o/bundles/best?ef_search=128
    best-rrf=rrf:best-bundle+bm25
    best-weighted=weighted:best-bundle+bm25
    """
    made = {str(model_in(out, recipe.name)) for recipe in recipes}
    bases = short_names(base for each in recipes if (base := each.model.base) not in made)
    systems = [f"zero-shot-{name}={base}" for base, name in bases.items()]
    systems.append("bm25")
    for place, recipe in enumerate(recipes):
        name, bundle, model = recipe.name, bundle_in(out, recipe.name), model_in(out, recipe.name)
        systems.append(f"{name}={model}")
        systems += [f"{name}-{d}={model}?dim={d}" for d in recipe.loss.matryoshka_dims]
        systems.append(f"{name}-hnsw={model}?ef_search={EF_SEARCH}")
        if place == 0:
            systems += [f"{name}-hnsw-{ef}={model}?ef_search={ef}" for ef in OTHER_EF_SEARCHES]
        systems.append(f"{name}-bundle={bundle}")
        if place == 0:
            systems.append(f"{name}-bundle-hnsw={bundle}?ef_search={BUNDLE_EF_SEARCH}")
        systems += [f"{name}-{way}={way}:{name}-bundle+bm25" for way in ("rrf", "weighted")]
    return systems


def short_names(bases: Iterable[str]) -> dict[str, str]:
    """Return a name for each model: the last part of its path, and those before that tell it apart.

    >>> short_names(["minilm", "r/a/model", "r/b/model/"])
    {'minilm': 'minilm', 'r/a/model': 'a-model', 'r/b/model': 'b-model'}
    """
    parts = {base: base.split("/") for base in (each.rstrip("/") for each in bases)}
    names = {}
    for base, own in parts.items():
        for depth in range(1, len(own) + 1):
            names[base] = "-".join(own[-depth:])
            if sum(other[-depth:] == own[-depth:] for other in parts.values()) == 1:
                break
    return names


def reranked_of(reranker: RerankerRecipe, first: Recipe, out: Path) -> list[str]:
    """Return the systems that rerank a recipe's model, as `training.system_notation` reads them.

    Its bundle alone is reranked, and its weighted fusion; of the latter both orders are weighed.

    >>> rest = {"model": {"base": "m"}, "batches": {"size": 8}, "optimizer": {"learning_rate": 0.1}}
    >>> first = Recipe.model_validate({"name": "best", **rest})
    >>> reranker = RerankerRecipe.model_validate({"name": "r", **rest})
    >>> for system in reranked_of(reranker, first, Path("o")): print(system)
    best-rerank-20=rerank:best-bundle+o/bundles/r?depth=20
    best-rerank-50=rerank:best-bundle+o/bundles/r?depth=50
    best-rerank-100=rerank:best-bundle+o/bundles/r?depth=100
    best-hybrid-rerank-20=rerank:best-weighted+o/bundles/r?depth=20
    best-both-20=weighted:best-hybrid-rerank-20+best-weighted
    best-hybrid-rerank-50=rerank:best-weighted+o/bundles/r?depth=50
    best-both-50=weighted:best-hybrid-rerank-50+best-weighted
    """
    name, bundle = first.name, bundle_in(out, reranker.name)
    systems = [f"{name}-rerank-{d}=rerank:{name}-bundle+{bundle}?depth={d}" for d in RERANK_DEPTHS]
    for depth in HYBRID_DEPTHS:
        reranked = f"{name}-hybrid-rerank-{depth}"
        systems.append(f"{reranked}=rerank:{name}-weighted+{bundle}?depth={depth}")
        systems.append(f"{name}-both-{depth}=weighted:{reranked}+{name}-weighted")
    return systems


def students_of(
    students: Sequence[DistillRecipe], teacher: str, systems: Sequence[str], out: Path
) -> list[str]:
    """Return query encoders over a teacher's items, and the teacher where it is no system yet."""
    if not students:
        return []
    known = any(each.is_whole and each.source == teacher for each in parse_systems(systems))
    found = [] if known else [f"teacher={teacher}"]
    return found + [f"{each.name}={bundle_in(out, each.name)}@{teacher}" for each in students]


def as_chosen(systems: Sequence[str], found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return systems with the weights that dev of one collection chose, for another collection.

    BM25 has its defaults. What searches through a graph is left out: how exact that is, is known.

    Args:
        systems: as `training.system_notation` reads them.
        found: what `training.evaluate` wrote of each.

    >>> as_chosen(["a", "bm25", "h=a?ef_search=8", "weighted:a+bm25"],
    ...           {"weighted": {"options": {"alpha": 0.6, "short_alpha": 0.2}}})
    ['a', 'bm25?k1=1.2&b=0.75', 'weighted:a+bm25?alpha=0.6&short_alpha=0.2']
    """
    chosen = []
    for system, text in zip(parse_systems(systems), systems, strict=True):
        if "ef_search" in system.options:
            continue
        options: Mapping[str, float] = {}
        if system.kind == "bm25":
            options = {"k1": K1, "b": B}
        elif system.kind in FUSIONS:
            options = found[system.name]["options"]
        written = "&".join(f"{key}={value}" for key, value in options.items())
        chosen.append(f"{text}?{written}" if written else text)
    return chosen
