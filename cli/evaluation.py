"""`vitrine eval`: compares systems on a judged data set, in a process that holds the models."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cli.stages import run_stage


@dataclass(frozen=True, slots=True)
class EvalOptions:
    """What to compare, and on what; see `python -m training.evaluate --help`."""

    data: Path
    systems: list[str]
    out: Path
    split: str
    baseline: str
    masked: bool
    cache: Path
    record: bool = False
    reranked_dev_queries: int = 0


def evaluate(options: EvalOptions) -> dict[str, Any]:
    """Run training.evaluate and return its result.

    Raises:
        StageFailed: it refused, and has said why.
    """
    arguments = ["--data", f"{options.data}", "--out", f"{options.out}"]
    arguments += ["--split", options.split, "--baseline", options.baseline]
    arguments += ["--cache", f"{options.cache}"]
    arguments += [part for system in options.systems for part in ("--system", system)]
    arguments += ["--masked"] if options.masked else []
    arguments += ["--record"] if options.record else []
    arguments += ["--reranked-dev-queries", f"{options.reranked_dev_queries}"]
    return run_stage("training.evaluate", arguments).values
