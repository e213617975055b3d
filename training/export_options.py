"""What to export and how, and the limits that every export is held to."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rpc.terminal import CommandError
from training.reference_texts import generate_texts

PARITY_MAX_DIFFERENCE = 1e-4
PUBLISH_AGREEMENT_MIN = 0.97
PUBLISH_COSINE_MIN = 0.8  # of the text that fares worst
RECALL_KEPT_MIN = 0.97  # of an encoder that asks over the items of another
LOSS_MAX = 0.01
TARGET_AGREEMENT = 0.99
NUM_REFERENCES = 48
NUM_CALIBRATION_TEXTS = 64
CALIBRATION_TEXTS_MAX = 256
MAX_TOKENS_MIN = 8
MAX_TOKENS_MAX = 4096  # the graph is run at its longest: attention over 8192 tokens takes 3 GB
_TEMPLATE_FIELD = re.compile(r"\{[A-Za-z_][A-Za-z0-9_.]*\}")


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """What to export and how."""

    model: str
    out: Path
    quantization: Literal["int8", "none"] = "int8"
    item_template: str = "{title}"
    max_tokens: int | None = None
    query_prompt: str | None = None
    item_prompt: str | None = None
    name: str | None = None
    target: float = TARGET_AGREEMENT
    matryoshka_dims: tuple[int, ...] = ()
    calibration: Path | None = None
    judgements: Path | None = None
    loss_max: float = LOSS_MAX
    item_bundle: Path | None = None
    force_reason: str | None = None


def max_tokens_of(options: ExportOptions, model_max: int) -> int:
    """Return the most tokens a text keeps: as asked for, else the model's own, at most 4096.

    Raises:
        CommandError: so many are not allowed.
    """
    most = min(model_max, MAX_TOKENS_MAX)
    if options.max_tokens is None:
        return most
    if not MAX_TOKENS_MIN <= options.max_tokens <= most:
        raise CommandError(
            f"--max-tokens is {options.max_tokens}; allowed {MAX_TOKENS_MIN}..{most}"
        )
    return options.max_tokens


def require_template(template: str) -> None:
    """Refuse an item template that items could not be embedded with.

    The encoder service reads it again when it embeds them, by the same rules.

    Raises:
        CommandError: it names no field, or braces do not match.

    >>> require_template("{title}. {brand}")
    """
    outside = _TEMPLATE_FIELD.sub("", template)
    if outside == template or "{" in outside or "}" in outside:
        raise CommandError(
            f"--item-template is {template!r}; fields in braces are needed, as in "
            '"{title}. {brand}"'
        )


def require_parity(difference: float, largest: float = 1.0) -> float:
    """Return the largest difference of a value between graph and model.

    Args:
        difference: absolute.
        largest: the largest value itself; values above 1 may differ by more.

    Raises:
        CommandError: it is above the limit.
    """
    limit = PARITY_MAX_DIFFERENCE * max(1.0, largest)
    if not difference <= limit:
        raise CommandError(
            f"the ONNX graph differs from the model by {difference:.2g}; at most {limit:g} is "
            "allowed: this architecture cannot be exported"
        )
    return difference


def require_meaning(
    measure: str, agreement: float, least: float = PUBLISH_AGREEMENT_MIN, *, forced: bool
) -> None:
    """Refuse to publish what means something else in 8 bits.

    Args:
        measure: what the agreement is, as "mean cosine".
        agreement: with full precision; 1 is the same.
        least: what it must be.
        forced: whether to publish it all the same.

    Raises:
        CommandError: it is too low.
    """
    if not agreement >= least and not forced:
        raise CommandError(
            f"INT8 keeps a {measure} of only {agreement:.4f} to full precision; at least "
            f"{least} is needed: use --quantize none, or --force REASON to publish it anyway"
        )


def require_found(
    lost: Mapping[str, float], limit: float, *, forced: bool, remedy: str = "--quantize none"
) -> None:
    """Refuse to publish what finds less in 8 bits on the judgements that were given.

    Args:
        lost: by measure, the share of full precision's; negative where something is gained.
        limit: the largest share that may be lost.
        forced: whether to publish it all the same.
        remedy: the options that lose less.

    Raises:
        CommandError: a measure loses more.

    >>> require_found({"recall@10": -0.002, "ndcg@10": 0.0099}, 0.01, forced=False)
    """
    for measure, share in lost.items():
        if not share <= limit and not forced:
            raise CommandError(
                f"INT8 loses {share:.2%} of full precision's {measure} on the judgements; at most "
                f"{limit:.2%} is allowed: use {remedy}, a larger --loss-max, or --force REASON to "
                "publish it anyway"
            )


def calibration_texts(path: Path | None) -> list[str]:
    """Return the texts to calibrate with: a file's lines, or generated ones.

    Raises:
        CommandError: the file is not text, or has no line.
    """
    if path is None:
        return generate_texts(NUM_CALIBRATION_TEXTS, seed=11)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as exc:
        raise CommandError(f"{path} is not UTF-8 text: {exc}") from exc
    texts = [line.strip() for line in lines if line.strip()]
    if not texts:
        raise CommandError(f"{path} has no text; one a line is needed")
    step = max(1, len(texts) // CALIBRATION_TEXTS_MAX)
    return texts[::step][:CALIBRATION_TEXTS_MAX]
