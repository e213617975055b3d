"""Reads what the files in deploy/ say, and what the services say about themselves."""

import importlib
import re
from dataclasses import dataclass
from pathlib import Path

from rpc.settings import ServiceSettings

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
ROLES = {"encoder": "encoder_service", "index": "index_service", "gateway": "gateway"}


def settings_class(role: str) -> type[ServiceSettings]:
    """Return the one settings class that a service defines."""
    module = importlib.import_module(f"{ROLES[role]}.settings")
    (found,) = (
        value
        for value in vars(module).values()
        if isinstance(value, type)
        and issubclass(value, ServiceSettings)
        and value.__module__ == module.__name__
    )
    return found


def default_ports(role: str) -> tuple[int, int]:
    """Return the gRPC and the HTTP port that a service takes when told nothing."""
    fields = settings_class(role).model_fields
    return fields["port"].default, fields["http_port"].default


def read_env_file(path: Path) -> dict[str, str]:
    lines = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


@dataclass(frozen=True)
class Dockerfile:
    """The instructions of one Dockerfile, line continuations joined."""

    text: str

    def values(self, instruction: str) -> list[str]:
        return re.findall(rf"^\s*{instruction} (.+)$", self.text, re.MULTILINE)

    @property
    def environment(self) -> dict[str, str]:
        return dict(re.findall(r"(\w+)=(\S+)", " ".join(self.values("ENV"))))
