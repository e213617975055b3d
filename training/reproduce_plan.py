"""What `training.reproduce` is told to make; what cannot be made is refused before anything is."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rpc.terminal import CommandError
from training.bases import bundle_in, model_in, named_in, require_bases, with_base_in
from training.beir import load_collection
from training.dataset import require_fields
from training.embeddings import open_encoder
from training.pairs import NUM_PAIRS
from training.recipe import (
    AnyRecipe,
    DistillRecipe,
    Recipe,
    RerankerRecipe,
    read_recipe,
    read_recipe_of,
)
from training.reproduced_systems import reranked_of, students_of, systems_of
from training.system_notation import parse_systems, require_plain

REPORT_FOLDER = "report"
MASKED_REPORT_FOLDER = "report-masked"


@dataclass(frozen=True, slots=True)
class ReproduceOptions:
    """What to learn from, by which recipes, and what to export and measure.

    Attributes:
        reviews, items: files.
        recipes: of bi-encoders.
        out: folder of all results.
        num_pairs: the most pairs to choose.
        reranker: recipe of a cross-encoder.
        quantization: of weights in the bundles.
        distill: recipes of query encoders.
        teacher: in whose space they are: folder, id or bundle; None: the first recipe's bundle.
        judgements: BEIR folders to measure on, too; nothing is trained or tuned on them.
        item_fields: what an item's text is made of.
    """

    reviews: Sequence[Path]
    items: Sequence[Path]
    recipes: Sequence[Path]
    out: Path
    num_pairs: int = NUM_PAIRS
    reranker: Path | None = None
    quantization: Literal["int8", "none"] = "int8"
    distill: Sequence[Path] = ()
    teacher: str | None = None
    judgements: Sequence[Path] = ()
    item_fields: Sequence[str] = ("title",)

    @property
    def data(self) -> Path:
        """Folder of the data set."""
        return self.out / "data"

    @property
    def embeddings(self) -> Path:
        """Folder of embeddings and scores of pairs."""
        return self.out / "embeddings"


@dataclass(frozen=True, slots=True)
class Plan:
    """The recipes of one command, with what they start from found in its folder.

    Attributes:
        recipes: of bi-encoders, one at least.
        students: of query encoders.
        teacher: in whose space these are.
        reranker: of a cross-encoder.
        systems: what is compared, as `training.system_notation` reads it.
    """

    recipes: Sequence[Recipe]
    students: Sequence[DistillRecipe]
    teacher: str
    reranker: RerankerRecipe | None
    systems: Sequence[str]

    @property
    def all_recipes(self) -> list[AnyRecipe]:
        """The recipes in the order in which they are trained by."""
        return [*self.recipes, *self.students, *([self.reranker] if self.reranker else [])]


def read_plan(options: ReproduceOptions) -> Plan:
    """Return what is to be made.

    Raises:
        CommandError: a recipe, the teacher, a collection or an option does not fit.
    """
    require_plain("--out", str(options.out))
    require_fields(options.item_fields)
    recipes, students, reranker = _read_recipes(options)
    teacher = _teacher_of(options, recipes)
    systems = systems_of(recipes, options.out)
    systems += students_of(students, teacher, systems, options.out)
    if reranker:
        systems += reranked_of(reranker, recipes[0], options.out)
    plan = Plan(recipes, students, teacher, reranker, systems)
    _require_names(plan)
    require_bases(plan.all_recipes, options.out)
    _require_teacher(plan, options)
    _require_judgements(options)
    return plan


def judged_report_of(judgements: Path) -> str:
    """Return the folder of the report on another collection.

    >>> judged_report_of(Path("data/shop/"))
    'report-shop'
    """
    return f"{REPORT_FOLDER}-{judgements.resolve().name}"


def _read_recipes(
    options: ReproduceOptions,
) -> tuple[list[Recipe], list[DistillRecipe], RerankerRecipe | None]:
    """Return the recipes, with what they start from found in the folder where they name it so."""
    recipes: list[Recipe] = []
    for path in options.recipes:
        recipes.append(with_base_in(read_recipe(path), options.out, recipes))
    students: list[DistillRecipe] = []
    for path in options.distill:
        student = read_recipe_of(DistillRecipe, path)
        students.append(with_base_in(student, options.out, [*recipes, *students]))
    if options.reranker is None:
        return recipes, students, None
    reranker = read_recipe_of(RerankerRecipe, options.reranker)
    return recipes, students, with_base_in(reranker, options.out, [*recipes, *students])


def _teacher_of(options: ReproduceOptions, recipes: Sequence[Recipe]) -> str:
    """Return the teacher: as given, found in the folder where it is named so, or the default."""
    if options.teacher is None:
        return str(bundle_in(options.out, recipes[0].name))
    return named_in(options.teacher, options.out, recipes)


def _require_teacher(plan: Plan, options: ReproduceOptions) -> None:
    """Refuse a teacher that is not there, unless it is still to be made, or that teaches nobody.

    Raises:
        CommandError: it is so, or it is no bi-encoder.
    """
    if options.teacher is not None and not plan.students:
        raise CommandError("--teacher is given without --distill; give the recipe of a student")
    made = [bundle_in(options.out, each.name) for each in plan.recipes]
    made += [model_in(options.out, each.name) for each in plan.recipes]
    if not plan.students or Path(plan.teacher) in made:
        return
    require_plain("--teacher", plan.teacher)
    try:
        open_encoder(plan.teacher)
    except CommandError as exc:
        raise CommandError(f"--teacher {plan.teacher}: {exc}") from exc


def _require_judgements(options: ReproduceOptions) -> None:
    """Refuse a folder that holds no judged collection, and two whose reports would be one.

    Raises:
        CommandError: there is one.
    """
    taken = {MASKED_REPORT_FOLDER: "the report on masked reviews"}
    for folder in options.judgements:
        report = judged_report_of(folder)
        if report in taken:
            raise CommandError(
                f"--judgements {folder}: its report would lie in {report}, as does {taken[report]};"
                " give a folder of another name"
            )
        taken[report] = f"that on {folder}"
        if folder.resolve() == options.data.resolve():
            raise CommandError(f"--judgements {folder}: it is what is trained and tuned on")
        load_collection(folder)


def _require_names(plan: Plan) -> None:
    """Refuse recipes that share a folder, and systems that the comparison would refuse.

    Raises:
        CommandError: two have one name.
    """
    names = Counter(each.name for each in plan.all_recipes)
    if twice := [name for name, count in names.items() if count > 1]:
        raise CommandError(f"two recipes are called {twice[0]}; give each a name of its own")
    parse_systems(plan.systems)
