"""Settings of the encoder service, under VITRINE_ENCODER_."""

from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from encoder_service.layout import Layout
from rpc.settings import Port, Seconds, ServiceSettings


class ReferenceSettings(BaseSettings):
    """How close a bundle must come, on this processor, to what it recorded at export."""

    model_config = SettingsConfigDict(
        env_prefix="VITRINE_ENCODER_", extra="ignore", env_ignore_empty=True
    )

    reference_cosine_min: float = Field(
        0.97,
        ge=-1,
        le=1,
        description="Least mean cosine of reference texts, encoded here, to their recorded "
        "vectors; below it the service refuses to serve, and a build to embed.",
    )
    reference_cosine_each_min: float = Field(
        0.9,
        ge=-1,
        le=1,
        description="Least cosine that any one of those texts may have; below it the same is "
        "refused.",
    )
    reranker_spearman_min: float = Field(
        0.9,
        ge=-1,
        le=1,
        description="Least rank correlation of reference pairs scored at start with their recorded "
        "scores; below it the service refuses to serve.",
    )
    serve_below_reference_cosine: bool = Field(
        False,
        description="Serve, and embed, vectors or scores that failed their check; logged, and "
        "shown as a metric.",
    )


class EncoderSettings(ReferenceSettings, ServiceSettings):
    """What the encoder service needs to know."""

    model_config = SettingsConfigDict(env_prefix="VITRINE_ENCODER_", cli_kebab_case=True)

    port: Port = Field(7701, description="gRPC port; 0 takes a free one.")
    http_port: Port = Field(
        8701, description="Port of metrics and health page; 0 takes a free one."
    )
    bundle: Path = Field(description="Folder of the encoder bundle to serve.")
    reranker_bundle: Path | None = Field(
        None, description="Folder of a cross-encoder bundle; without one, Rerank is UNIMPLEMENTED."
    )
    layout: Layout = Field(
        Layout.AUTO,
        description="Threads of a lone query: latency gives it every core, throughput one, auto "
        "every core while no other query is there and that is faster here, measured at start.",
    )
    workers: int = Field(
        0, ge=0, le=256, description="Texts of one lane run side by side; 0 means one a core."
    )
    short_encode_us: int = Field(
        10_000,
        ge=0,
        description="A lone query that is expected to take at most this long is encoded where it "
        "arrives, while nothing else is; 0 hands over each.",
    )
    queue_texts_max: int = Field(
        2048, ge=1, description="Texts that may wait in each lane: queries, pairs, items."
    )
    queue_tokens_max: int = Field(
        32_768, ge=1, description="Tokens that those texts may have together, in each lane."
    )
    batch_texts_max: int = Field(256, ge=1, le=4096, description="Most texts in one Encode call.")
    text_bytes_max: int = Field(
        100_000, ge=1, le=100_000, description="Longest text, in bytes of UTF-8."
    )
    encode_timeout_s: Seconds = Field(
        30.0, description="Longest that a call may take, whatever deadline its caller has."
    )
