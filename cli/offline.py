"""Generations as files: what the CLI needs to know of them without a running service."""

from dataclasses import dataclass
from pathlib import Path

import orjson

from cli.home import Home
from rpc.active import Active, read_active, write_active
from rpc.errors import FailedPrecondition, NotFound
from rpc.terminal import CommandError

MANIFEST_FILE = "manifest.json"


@dataclass(frozen=True, slots=True)
class Manifest:
    """The part of a generation's manifest that the CLI reads."""

    generation: int
    encoder_id: str
    num_shards: int
    items: int
    ann_recall_at_10: float
    required_ann_recall_at_10: float

    @property
    def passes_gate(self) -> bool:
        """Tell whether it was measured at the recall that promotion asks for."""
        return self.ann_recall_at_10 >= self.required_ann_recall_at_10


def read_manifest(home: Home, generation: int) -> Manifest:
    """Return what a generation's manifest says.

    Raises:
        NotFound: there is no such generation.
        CommandError: its manifest cannot be understood.
    """
    file = home.generations / f"{generation:06d}" / MANIFEST_FILE
    try:
        document = orjson.loads(file.read_bytes())
        return Manifest(
            generation=int(document["generation"]),
            encoder_id=str(document["encoder"]["encoder_id"]),
            num_shards=int(document["num_shards"]),
            items=int(document["items"]),
            ann_recall_at_10=float(document["gate"]["ann_recall_at_10"]),
            required_ann_recall_at_10=float(document["gate"]["required_ann_recall_at_10"]),
        )
    except FileNotFoundError as exc:
        raise NotFound("generation", [generation]) from exc
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError) as exc:
        raise CommandError(
            f"cannot understand {file}; build the generation again with `vitrine build`"
        ) from exc


def promoted(home: Home) -> Manifest:
    """Return the promoted generation's manifest.

    Raises:
        CommandError: none is promoted, or its files are gone.
    """
    generation = read_active(str(home.generations)).generation
    if not generation:
        raise CommandError(
            f"no generation is promoted in {home.path}; build one with `vitrine build --items FILE "
            f"--bundle DIR --home {home.path} --promote`, or promote one with `vitrine generation "
            f"promote N --home {home.path}`"
        )
    try:
        return read_manifest(home, generation)
    except NotFound as exc:
        raise CommandError(
            f"generation {generation} is promoted but its files are gone from {home.generations}; "
            f"promote another with `vitrine generation promote N --home {home.path}`"
        ) from exc


def promote(home: Home, generation: int, force_reason: str) -> Active:
    """Point at a generation while no gateway runs; the next `vitrine up` serves it.

    Raises:
        NotFound: there is no such generation.
        FailedPrecondition: its recall is below its gate and no reason is given.
    """
    manifest = read_manifest(home, generation)
    if not manifest.passes_gate and not force_reason:
        raise FailedPrecondition(
            "BELOW_GATE",
            f"generation {generation} reached ann_recall@10 {manifest.ann_recall_at_10:.4f}, below "
            f"the required {manifest.required_ann_recall_at_10:.4f}; build it with a larger --m or "
            "--ef-construction, or promote it all the same with --force-reason TEXT",
            manifest.required_ann_recall_at_10,
            manifest.ann_recall_at_10,
        )
    active = read_active(str(home.generations))
    promoted = active.promoted(generation, "promote", force_reason)
    write_active(str(home.generations), promoted)
    return promoted


def rollback(home: Home, reason: str) -> Active:
    """Point at the generation promoted before, while no gateway runs.

    Raises:
        FailedPrecondition: there is none.
    """
    active = read_active(str(home.generations))
    if not active.previous:
        raise FailedPrecondition(
            "NO_PREVIOUS_GENERATION", "no generation was promoted before this one"
        )
    read_manifest(home, active.previous)
    back = active.promoted(active.previous, "rollback", reason)
    write_active(str(home.generations), back)
    return back


def copied_bundle(home: Home, encoder_id: str) -> Path:
    """Return the home's copy of an encoder bundle.

    Raises:
        CommandError: it is not there.
    """
    folder = home.bundles / encoder_id
    if not folder.is_dir():
        raise CommandError(
            f"the encoder bundle {encoder_id} that the promoted generation was built with is not "
            f"in {home.bundles}; copy it there, or name it with --bundle DIR"
        )
    return folder
