"""What an operator can set on an index service. Environment prefix: VITRINE_INDEX_."""

from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from index_service.planner import PlanLimits
from rpc.settings import Port, Seconds, ServiceSettings

_PLAN = PlanLimits()


class IndexSettings(ServiceSettings):
    """Which shard this is, where generations come from, and the limits of a search."""

    model_config = SettingsConfigDict(env_prefix="VITRINE_INDEX_", cli_kebab_case=True)

    port: Port = Field(7702, description="gRPC port; 0 takes a free one.")
    http_port: Port = Field(
        8702, description="Port of metrics and health page; 0 takes a free one."
    )
    shard: int = Field(0, ge=0, le=1023, description="Which shard this process serves, 0-based.")
    generations: str = Field(
        description="Folder or URL of the generations, where active.json is; a folder is used in "
        "place, files of a URL are copied to the cache folder."
    )
    cache_dir: Path = Field(
        Path(".vitrine/cache"), description="Where files of a generations URL are copied to."
    )
    verify: Literal["full", "sampled", "lazy", "size"] = Field(
        "full",
        description="Check before serving: full compares the SHA-256 of every file, sampled of one "
        "chosen at random, lazy of every file once it is served, size compares sizes alone.",
    )
    memory_budget_bytes: int = Field(
        0,
        ge=0,
        description="Memory that all generations held may take, files that are mapped not counted "
        "unless they are locked; 0 for what machine and container have left. A generation that "
        "needs more is refused.",
    )
    lock_memory: bool = Field(
        True,
        description="Lock each generation's graph and ids in memory, where there is room for them "
        "and the system allows it (ulimit -l, CAP_IPC_LOCK): where memory is short, vectors give "
        "way.",
    )
    generations_max: int = Field(
        4, ge=1, description="Generations held at once; loading a further one is refused."
    )

    search_threads: int = Field(
        1, ge=1, le=256, description="Searches at once; each runs on one core."
    )
    short_search_us: int = Field(
        1_000,
        ge=0,
        description="A query without filter whose search takes at most this long by the "
        "generation's gate is searched where it arrives, while no other is; 0 hands over each.",
    )
    queue_max: int = Field(
        256, ge=1, description="Calls that may wait for a search thread; more are refused at once."
    )
    search_timeout_s: Seconds = Field(
        60.0, description="Longest time for a call; a caller's sooner deadline counts instead."
    )
    filters_cached_max: int = Field(
        128, ge=0, description="Filters whose matching rows are remembered, a generation."
    )
    warm_probes_max: int = Field(
        256, ge=0, description="Probe queries searched before a generation is served."
    )

    recall_sample: float = Field(
        0.001,
        ge=0,
        le=1,
        description="Share of searches that are searched exactly as well, aside, to measure "
        "recall; none while anybody waits, or memory is short.",
    )

    rows_a_candidate: float = Field(
        _PLAN.rows_a_candidate,
        ge=0,
        description="Scattered rows that are scanned in the time that one candidate of ef_search "
        "costs along the graph; with a filter the cheaper way is taken. 0: the graph, wherever "
        "EF_FILTERED_MAX allows it.",
    )
    graph_selectivity_min: float = Field(
        _PLAN.graph_selectivity_min,
        gt=0,
        le=1,
        description="Share of matching rows from which on ef_search is not raised for a filter.",
    )
    ef_filtered_max: int = Field(
        _PLAN.ef_filtered_max,
        ge=16,
        description="A filter that ef_search would be raised beyond this for, and beyond four "
        "times what it is without one, is searched exactly.",
    )
