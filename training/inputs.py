"""What a folder of results was made of: other inputs are refused, and what differs is said."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rpc.files import sha256_of
from rpc.terminal import CommandError
from training.json_files import read_object, write_object

INPUTS_FILE = "inputs.json"


def require_same_inputs(
    out: Path,
    reviews: Sequence[Path],
    items: Sequence[Path],
    num_pairs: int,
    item_fields: Sequence[str],
) -> None:
    """Refuse a folder of other files, of other content of theirs, or of another choice from them.

    A new folder is told what it is made of.

    Raises:
        CommandError: it holds such results, or a file is missing.
    """
    inputs = {
        "reviews": [_facts_of(path) for path in reviews],
        "items": [_facts_of(path) for path in items],
        "pairs": num_pairs,
        "item_fields": list(item_fields),
    }
    known = read_object(out / INPUTS_FILE)
    if known is not None:
        known = {"item_fields": ["title"], **known}  # earlier versions knew no other
        if known != inputs:
            raise CommandError(_what_differs(out, known, inputs))
    write_object(out / INPUTS_FILE, inputs)


def _facts_of(path: Path) -> dict[str, Any]:
    """Return where a file is and what tells its content from any other."""
    if not path.is_file():
        raise CommandError(f"{path}: no such file")
    return {
        "path": str(path.resolve()),
        "bytes": path.stat().st_size,
        "sha256": sha256_of(path),
    }


def _what_differs(out: Path, known: Mapping[str, Any], inputs: Mapping[str, Any]) -> str:
    """Return the sentence that says it."""
    # Earlier versions kept the path alone, and nothing to compare a file's content with.
    before = {each["path"]: each for each in _files(known) if isinstance(each, dict)}
    for now in _files(inputs):
        if before.get(now["path"], now) != now:
            return f"{now['path']} has changed since {out} was made of it; give another --out"
    if len(before) < len(list(_files(known))) or before.keys() != {
        each["path"] for each in _files(inputs)
    }:
        named = ", ".join(before) or "files of which it keeps no hashes"
        return f"{out} holds what was made of other files ({named}); give another --out"
    if known["item_fields"] != inputs["item_fields"]:
        before_it, now_it = (",".join(each["item_fields"]) for each in (known, inputs))
        return (
            f"{out} was made with --item-fields {before_it}, not {now_it}; give that, or another "
            "--out"
        )
    return (
        f"{out} was made with --pairs {known.get('pairs')}, not {inputs['pairs']}; give that, or "
        "another --out"
    )


def _files(inputs: Mapping[str, Any]) -> Iterable[Any]:
    return (*inputs.get("reviews", ()), *inputs.get("items", ()))
