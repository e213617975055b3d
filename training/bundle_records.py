"""What a comparison found of encoder bundles, kept in encoder.json; no vector follows from it.

- `fusion`: the weights that dev chose for a bundle's hits and those of BM25.
- `compatible_query_encoders`: encoders that may ask over the bundle's items in its place, each with
  the recall that says so. Generations built with the bundle take the list over.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rpc.terminal import CommandError
from training.bundle_files import ENCODER_FILE, amend, read_description
from training.export_options import RECALL_KEPT_MIN
from training.fusion import RRF_K
from training.short_queries import SHORT_WORDS_MAX
from training.system_notation import FUSIONS, Written
from training.systems import TUNED_ON, Opened


def require_recordable(systems: Sequence[Written], *, has_dev: bool, masked: bool) -> None:
    """Refuse, before any work, systems of which nothing can be recorded.

    Raises:
        CommandError: queries are masked, or there is neither a fusion to tune nor a query encoder
            to compare.
    """
    if masked:
        raise CommandError(
            "--record: what masked queries say is not for bundles, which nobody asks so; leave out "
            "--masked"
        )
    for system in _query_encoders(systems):
        _own(system, systems)
    if not _query_encoders(systems) and not (has_dev and _fusions(systems)):
        raise CommandError(
            "--record: there is nothing to record; it takes rrf:A+B or weighted:A+B without a "
            "weight, of a bundle and bm25 and with a dev split to tune on, or QUERY@ITEMS of two "
            "bundles"
        )


def record(
    systems: Sequence[Written], opened: Mapping[str, Opened], results: Mapping[str, Any]
) -> tuple[list[str], list[str]]:
    """Write what was found into the bundles.

    Returns:
        For people: what was written, and which query encoders were not, for they keep too little.
    """
    said = []
    for folder, fusion in _fusion_fields(systems, opened, results).items():
        amend(folder, {"fusion": fusion})
        said.append(f"{folder}: fusion")
    refused = []
    for system in _query_encoders(systems):
        entry = _entry(system, _own(system, systems), opened, results)
        if entry["recall_kept"] < RECALL_KEPT_MIN:
            refused.append(
                f"{system.name} keeps {entry['recall_kept']:.4f} of the {TUNED_ON} of "
                f"{system.items}'s own queries; {RECALL_KEPT_MIN} is the least that is recorded"
            )
            continue
        folder = Path(system.items)
        others = [
            known
            for known in read_description(folder)["compatible_query_encoders"]
            if known["encoder_id"] != entry["encoder_id"]
        ]
        amend(folder, {"compatible_query_encoders": [*others, entry]})
        said.append(f"{folder}: compatible_query_encoders")
    return said, refused


def _fusion_fields(
    systems: Sequence[Written], opened: Mapping[str, Opened], results: Mapping[str, Any]
) -> dict[Path, dict[str, Any]]:
    """Return what `fusion` becomes in each bundle."""
    by_name = {system.name: system for system in systems}
    fields: dict[Path, dict[str, Any]] = {}
    for system in _fusions(systems):
        if not opened[system.name].tuned:
            continue
        dense, lexical = (by_name[part] for part in system.parts)
        field = fields.setdefault(Path(dense.source), {"tuned_on": dict(results["dev"])})
        fixed = {"k": RRF_K} if system.kind == "rrf" else {"short_words_max": SHORT_WORDS_MAX}
        field[system.kind] = {**fixed, **opened[system.name].options}
        field["bm25"] = dict(opened[lexical.name].options)
    return fields


def _entry(
    system: Written, own: Written, opened: Mapping[str, Opened], results: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what `compatible_query_encoders` says of a query encoder."""
    described = read_description(Path(system.source))
    found, base = (
        float(results["systems"][each.name]["measures"][TUNED_ON]["mean"]) for each in (system, own)
    )
    return {
        "encoder_id": described["encoder_id"],
        "name": described["name"],
        "recall_at_10": round(found, 4),
        "own_recall_at_10": round(base, 4),
        "recall_kept": round(found / base, 4) if base else 0.0,
        "encode_p50_ms": opened[system.name].p50_ms["encode"],
        "own_encode_p50_ms": opened[own.name].p50_ms["encode"],
        **{key: results[key] for key in ("data", "split", "queries", "items")},
    }


def _fusions(systems: Sequence[Written]) -> list[Written]:
    """Return the fusions, with a weight to tune, of a whole bundle and BM25."""
    by_name = {system.name: system for system in systems}
    return [
        system
        for system in systems
        if system.kind in FUSIONS
        and not system.options
        and by_name[system.parts[0]].is_whole
        and _is_bundle(by_name[system.parts[0]].source)
        and by_name[system.parts[1]].kind == "bm25"
    ]


def _query_encoders(systems: Sequence[Written]) -> list[Written]:
    return [
        system
        for system in systems
        if system.items
        and not system.options
        and _is_bundle(system.source)
        and _is_bundle(system.items)
    ]


def _own(system: Written, systems: Sequence[Written]) -> Written:
    """Return the system whose items another encoder asks over.

    Raises:
        CommandError: it is not compared.
    """
    for other in systems:
        if other.is_whole and other.source == system.items:
            return other
    raise CommandError(
        f"--record: {system.name} is held against {system.items}'s own queries; give that as a "
        "system, too"
    )


def _is_bundle(source: str) -> bool:
    return (Path(source) / ENCODER_FILE).is_file()
