"""JSON files that hold one object: read with a sentence for a torn one, written whole."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson

from rpc.files import replace_file
from rpc.terminal import CommandError


def read_object(path: Path) -> dict[str, Any] | None:
    """Return the JSON object in a file; None where there is none.

    Raises:
        CommandError: the file holds anything else.
    """
    if not path.is_file():
        return None
    try:
        found = orjson.loads(path.read_bytes())
    except orjson.JSONDecodeError as exc:
        raise CommandError(f"{path}: not valid JSON: {exc}; remove it and make it again") from exc
    if not isinstance(found, dict):
        raise CommandError(f"{path}: not a JSON object; remove it and make it again")
    return found


def write_object(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON object, indented, whole or not at all; its folder is made where it is not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, orjson.dumps(dict(content), option=orjson.OPT_INDENT_2) + b"\n")
