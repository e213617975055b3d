"""Which generation searches see: one small file beside the generations, replaced whole.

The gateway writes it when it promotes or rolls back; shards read it when they start, so that a
restarted shard serves what the others serve.
"""

from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import fsspec
import orjson

from rpc.errors import DataLoss
from rpc.files import replace_file

ACTIVE_FILE = "active.json"
FORMAT_VERSION = 1


@dataclass(frozen=True, slots=True)
class Promotion:
    """One entry in the log of promotions."""

    generation: int
    action: Literal["promote", "rollback"]
    at: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Active:
    """The promoted generation, the one before it, and how it came to that. Zero means none."""

    generation: int = 0
    previous: int = 0
    history: tuple[Promotion, ...] = field(default=())

    def promoted(
        self, generation: int, action: Literal["promote", "rollback"], reason: str
    ) -> "Active":
        """Return what is active once `generation` is promoted; promoting it again changes nothing.

        >>> once = Active().promoted(1, "promote", "")
        >>> twice = once.promoted(2, "promote", "")
        >>> twice.generation, twice.previous
        (2, 1)
        """
        if generation == self.generation:
            return self
        at = datetime.now(UTC).isoformat(timespec="milliseconds")
        entry = Promotion(generation, action, at, reason)
        return replace(
            self, generation=generation, previous=self.generation, history=(*self.history, entry)
        )


def read_active(generations_url: str) -> Active:
    """Return what is active in a folder or object-store URL of generations.

    Raises:
        DataLoss: the file is there but cannot be understood.
    """
    url = f"{generations_url.rstrip('/')}/{ACTIVE_FILE}"
    try:
        with fsspec.open(url, "rb") as file:
            content = file.read()
    except FileNotFoundError:
        return Active()
    try:
        return _parse(orjson.loads(content))
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError) as exc:
        raise DataLoss(url, f"not a valid pointer to a generation: {exc}") from exc


def write_active(generations_url: str, active: Active) -> None:
    """Replace what is active, durably and in one step."""
    content = orjson.dumps({"format_version": FORMAT_VERSION, **asdict(active)})
    filesystem, folder = fsspec.core.url_to_fs(generations_url)
    if "file" in filesystem.protocol:
        replace_file(Path(folder) / ACTIVE_FILE, content)
    else:
        filesystem.pipe_file(f"{folder.rstrip('/')}/{ACTIVE_FILE}", content)


def _parse(document: dict[str, Any]) -> Active:
    if document["format_version"] != FORMAT_VERSION:
        raise TypeError(f"format_version is {document['format_version']}, not {FORMAT_VERSION}")
    history = tuple(Promotion(**entry) for entry in document["history"])
    return Active(int(document["generation"]), int(document["previous"]), history)
