"""Settings that every service has. Each service extends them under its own environment prefix."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from rpc.addresses import PORT_MAX
from rpc.terminal import CommandError

S = TypeVar("S", bound=BaseSettings)
Port = Annotated[int, Field(ge=0, le=PORT_MAX)]
# gRPC counts milliseconds in 32 bits: 2,147,483 s and no more.
SECONDS_MAX = 2_000_000
Seconds = Annotated[float, Field(gt=0, le=SECONDS_MAX, allow_inf_nan=False)]
# Gateways keep a standing call open for 10 s: a shorter grace would cut it with its questions.
CONNECTION_AGE_GRACE_MIN_S = 15


class ServiceSettings(BaseSettings):
    """What a server needs to listen, limit, drain and tell about itself."""

    model_config = SettingsConfigDict(extra="ignore", env_ignore_empty=True)

    host: str = Field(
        "127.0.0.1", description="Address to listen on; 0.0.0.0, or :: with IPv6, in a container."
    )
    port: Port = Field(0, description="gRPC port; 0 takes a free one.")
    http_port: Port = Field(0, description="Port of metrics and health page; 0 takes a free one.")
    announce_file: Path | None = Field(
        None, description="File to write role, pid and addresses to once they are bound."
    )
    message_bytes_max: int = Field(
        16 * 1024 * 1024,
        ge=64 * 1024,
        le=2**31 - 1,
        description="Largest message sent or received, in bytes.",
    )
    calls_in_flight_max: int = Field(
        1024, ge=1, description="Calls served at once; further ones are RESOURCE_EXHAUSTED."
    )
    max_connection_age_s: Seconds = Field(
        300.0,
        description="Connections are closed politely after this, so that clients see new replicas.",
    )
    max_connection_age_grace_s: float = Field(
        30.0,
        ge=CONNECTION_AGE_GRACE_MIN_S,
        le=SECONDS_MAX,
        allow_inf_nan=False,
        description="How long calls may go on over a connection that was closed politely.",
    )
    drain_delay_s: float = Field(
        0.0,
        ge=0,
        le=3600,
        allow_inf_nan=False,
        description="Seconds between NOT_SERVING and refusing new calls when stopping.",
    )
    drain_timeout_s: Seconds = Field(
        20.0, description="Seconds that calls in flight get to end when stopping."
    )
    reflection: bool = Field(True, description="Whether grpcurl can list the services.")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least severe level that is logged; info has a line a call."
    )
    log_format: Literal["json", "console"] = Field(
        "json", description="One JSON object a line, or coloured text for people."
    )

    @field_validator("announce_file")
    @classmethod
    def _lies_in_a_folder(cls, value: Path | None) -> Path | None:
        if value is not None and not value.parent.is_dir():
            raise ValueError(f"there is no folder {value.parent} to write it into")
        return value

    @model_validator(mode="after")
    def _ports_differ(self) -> Self:
        if self.port and self.port == self.http_port:
            prefix = self.model_config.get("env_prefix", "")
            raise ValueError(f"{prefix}PORT and {prefix}HTTP_PORT are both {self.port}")
        return self


def read_settings(kind: type[S], *, flags: bool = True) -> S:
    """Return settings from command-line flags, then environment variables, then defaults.

    Args:
        kind: the settings.
        flags: whether the command line is read.

    Raises:
        CommandError: names each setting that is missing or wrong, as flag and as variable.
    """
    try:
        return kind(_cli_parse_args=flags)
    except ValidationError as exc:
        prefix = kind.model_config.get("env_prefix", "")
        problems = (_problem(prefix, error["loc"], error["msg"]) for error in exc.errors())
        raise CommandError(f"bad settings: {'; '.join(problems)} (--help lists them)") from exc


def _problem(prefix: str, place: tuple[Any, ...], message: str) -> str:
    """Return one problem with its variable; what concerns several names them itself."""
    sentence = message.removeprefix("Value error, ")
    return f"{prefix}{'_'.join(map(str, place)).upper()}: {sentence}" if place else sentence
