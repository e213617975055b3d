"""Settings of the encoder service, under VITRINE_ENCODER_."""

from pathlib import Path

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from rpc.settings import Port, Seconds, ServiceSettings


class EncoderSettings(ServiceSettings):
    """What the encoder service needs to know."""

    model_config = SettingsConfigDict(env_prefix="VITRINE_ENCODER_", cli_kebab_case=True)

    port: Port = Field(7701, description="gRPC port; 0 takes a free one.")
    http_port: Port = Field(
        8701, description="Port of metrics and health page; 0 takes a free one."
    )
    bundle: Path = Field(description="Folder of the encoder bundle to serve.")
    workers: int = Field(
        0, ge=0, le=256, description="Texts encoded side by side; 0 means one a core."
    )
    queue_texts_max: int = Field(
        2048, ge=1, description="Texts that may wait in each lane, queries and items."
    )
    batch_texts_max: int = Field(256, ge=1, le=4096, description="Most texts in one Encode call.")
    text_bytes_max: int = Field(
        100_000, ge=1, le=100_000, description="Longest text, in bytes of UTF-8."
    )
    encode_timeout_s: Seconds = Field(
        30.0, description="Longest that a call may take, whatever deadline its caller has."
    )
    reference_cosine_min: float = Field(
        0.97,
        ge=-1,
        le=1,
        description="Least mean cosine of reference texts encoded at start to their recorded "
        "vectors; below it the service refuses to serve.",
    )
    serve_below_reference_cosine: bool = Field(
        False, description="Serve vectors that failed that check; logged, and shown as a metric."
    )
