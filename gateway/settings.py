"""What an operator can set on a gateway. Environment prefix: VITRINE_GATEWAY_."""

from pydantic import Field, field_validator
from pydantic_settings import SettingsConfigDict

from rpc.addresses import require_host_port
from rpc.settings import Port, Seconds, ServiceSettings


class GatewaySettings(ServiceSettings):
    """Where the other parts are, and the limits of a search."""

    model_config = SettingsConfigDict(env_prefix="VITRINE_GATEWAY_", cli_kebab_case=True)

    port: Port = Field(7700, description="gRPC port; 0 takes a free one.")
    http_port: Port = Field(
        8700, description="Port of metrics and health page; 0 takes a free one."
    )
    encoder: str = Field(
        description="gRPC target of the encoder service, as in dns:///encoder:7701."
    )
    shards: str = Field(
        description="Index services in shard order, comma-separated: host:port, or a name with one "
        "address a replica; several addresses of one shard are joined with |."
    )
    catalog: str = Field(description="Catalogue URL: sqlite:///PATH or postgresql://...")
    generations: str = Field(description="Folder or URL of the generations, where active.json is.")

    search_timeout_s: Seconds = Field(
        5.0, description="Longest time for a search; a caller's sooner deadline counts instead."
    )
    embed_share: float = Field(
        0.6, gt=0, le=1, description="Share of the time left that embedding may use."
    )
    shard_share: float = Field(
        0.8, gt=0, le=1, description="Share of the time left that asking the shards may use."
    )
    shard_timeout_s: Seconds = Field(2.0, description="Longest wait for a shard in one search.")
    exact_timeout_s: Seconds = Field(
        30.0, description="Longest time for a search with params.exact, and its wait for a shard."
    )
    attach_timeout_s: Seconds = Field(0.5, description="Longest wait for items of the catalogue.")
    admin_timeout_s: Seconds = Field(600.0, description="Longest time to load a generation.")

    refresh_s: Seconds = Field(
        1.0, description="Seconds between looks at encoder, shards and active.json."
    )
    probe_timeout_s: Seconds = Field(
        1.0, description="A replica that does not describe itself in this time is left alone."
    )
    startup_grace_s: Seconds = Field(
        10.0,
        description="How long a starting gateway waits for shards that cannot be reached, or "
        "cannot load the promoted generation, before it serves without them.",
    )

    encode_calls_max: int = Field(2, ge=1, description="Encode calls in flight at once.")
    encode_texts_max: int = Field(
        64, ge=1, le=256, description="Most queries that share an Encode call."
    )
    shard_queries_max: int = Field(
        64, ge=1, le=256, description="Most queries that share a shard call."
    )
    waiting_max: int = Field(
        2048,
        ge=1,
        description="Queries waiting for the encoder, for one shard or for the catalogue, in each "
        "queue; more are refused.",
    )
    hedge: bool = Field(
        True, description="Ask a second replica when the first is slower than its rolling p95."
    )
    embedding_cache_bytes: int = Field(
        64 * 1024 * 1024,
        ge=0,
        description="Memory for embeddings of recent queries; 0 turns it off.",
    )
    item_cache_bytes: int = Field(
        64 * 1024 * 1024,
        ge=0,
        description="Memory for items that took a wait to read; 0 turns it off.",
    )
    item_cache_ttl_s: Seconds = Field(
        30.0, description="Seconds after which an item is read again."
    )
    catalog_timeout_s: Seconds = Field(
        2.0, description="Longest wait for a connection to the catalogue or one of its statements."
    )

    @field_validator("shards")
    @classmethod
    def _names_addresses(cls, value: str) -> str:
        for shard in value.split(","):
            if not shard.strip():
                raise ValueError("an empty address between commas")
            for address in shard.split("|"):
                require_host_port(address.strip())
        return value

    @property
    def shard_targets(self) -> tuple[tuple[str, ...], ...]:
        """The addresses of each shard's replicas, in shard order."""
        return tuple(
            tuple(address.strip() for address in shard.split("|"))
            for shard in self.shards.split(",")
        )
