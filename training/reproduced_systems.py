"""What `training.reproduce` compares, as `training.system_notation` writes it."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from training.bases import model_in
from training.recipe import Recipe, RerankerRecipe

RERANK_DEPTHS = (20, 50, 100)
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
        name, bundle, model = recipe.name, out / "bundles" / recipe.name, model_in(out, recipe.name)
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
    """Return the systems that rerank a recipe's model, as `training.system_notation` reads them."""
    bundle = out / "bundles" / reranker.name
    return [
        f"{first.name}-rerank-{depth}=rerank:{first.name}-bundle+{bundle}?depth={depth}"
        for depth in RERANK_DEPTHS
    ]
