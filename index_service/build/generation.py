"""How a generation is made: aside, shard by shard, measured, and published in one step."""

import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import astuple, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import faiss
import numpy as np
import xxhash
from numpy.typing import NDArray

from index_service.build.gate import ShardsMeasured, choose, warn_below
from index_service.build.projection import fit
from index_service.build.publish import (
    STAGING_PREFIX,
    alone,
    enough_room,
    next_number,
    publish,
    shard_entries,
)
from index_service.build.ray_workers import RayWorkers
from index_service.build.shard_files import ShardTask, durable, write_shard
from index_service.build.survey import merge, survey, survey_tasks
from index_service.build.tune import PLOT_FILE, TUNING_FILE, tune
from index_service.build.work_folder import WorkFolder
from index_service.build.workers import Workers, available_cores, single_threaded
from index_service.generation.manifest import (
    BUCKET_HASH,
    FORMAT_VERSION,
    INDEX_KIND,
    PROBES_FILE,
    AttributeEntry,
    GateEntry,
    IndexParameters,
    Manifest,
)
from index_service.generation.verify import entry_of
from index_service.scoring import Rows
from rpc.buckets import NUM_BUCKETS
from rpc.server import software_version
from rpc.terminal import CommandError

DEFAULT_M = 24
DEFAULT_EF_CONSTRUCTION = 400
# Below this a single process is done before others have started.
_ITEMS_FOR_PROCESSES = 4_000


@dataclass(frozen=True, slots=True)
class BuildSettings:
    """What a generation is to be like."""

    num_shards: int
    m: int = DEFAULT_M
    ef_construction: int = DEFAULT_EF_CONSTRUCTION
    code_dim: int | None = None
    """Dimensions of a code; None for as few as keep nearly all of every vector."""
    required_recall: float = 0.99
    seed: int = 1
    tune: bool = False
    """Try setups on a sample first, and take m and code_dim from the best."""
    ray: str = ""
    """Address of the Ray cluster that works; empty for this machine's cores."""

    @property
    def parameters(self) -> IndexParameters:
        """How the graphs are built."""
        return IndexParameters(INDEX_KIND, self.m, self.ef_construction, self.seed, self.code_dim)


@dataclass(frozen=True, slots=True)
class Built:
    """What became of a build."""

    generation: int
    items: int
    shards: int
    seconds: float
    bytes: int
    ann_recall_at_10: float
    ef_search: int
    rescored: int
    m: int
    code_dim: int


def build_generation(work_dir: Path, generations: Path, settings: BuildSettings) -> Built:
    """Make and publish the next generation.

    Shards that an interrupted build has finished are kept: run it again to go on.

    Raises:
        CommandError: the work folder is not complete, another build is running, no room is left.
    """
    started_s = time.perf_counter()
    work = WorkFolder.open(work_dir)
    generations.mkdir(parents=True, exist_ok=True)
    settings = _tuned(work, settings)
    staging = generations / f"{STAGING_PREFIX}{_key(work, settings)}"
    with alone(staging), enough_room(staging):
        staging.mkdir(exist_ok=True)
        manifest = _make(work, staging, settings, next_number(generations))
        if settings.tune:
            _keep_tuning(work, staging)
        publish(staging, generations, manifest)
    return Built(
        generation=manifest.generation,
        items=manifest.items,
        shards=manifest.num_shards,
        seconds=round(time.perf_counter() - started_s, 3),
        bytes=manifest.size_bytes,
        ann_recall_at_10=manifest.gate.ann_recall_at_10,
        ef_search=manifest.gate.ef_search,
        rescored=manifest.gate.rescored,
        m=manifest.index.m,
        code_dim=manifest.index.code_dim or manifest.encoder.dim,
    )


def _tuned(work: WorkFolder, settings: BuildSettings) -> BuildSettings:
    """Return the settings with the setup that did best on a sample, if that is asked for."""
    if not settings.tune or not work.items:
        return settings
    with _workers(work, settings) as workers:
        tuning = tune(
            work, workers, settings.ef_construction, settings.seed, settings.required_recall
        )
    return replace(settings, m=tuning.chosen.m, code_dim=tuning.chosen.code_dim)


def _keep_tuning(work: WorkFolder, staging: Path) -> None:
    """Copy what tuning found beside the manifest, for people; shards do not need it."""
    for name in (TUNING_FILE, PLOT_FILE):
        if (work.folder / name).exists():
            shutil.copyfile(work.folder / name, staging / name)


def _workers(work: WorkFolder, settings: BuildSettings) -> Workers:
    """Return who works: a cluster, all cores, or this process where that is done sooner."""
    if settings.ray:
        return RayWorkers(settings.ray)
    return Workers(available_cores() if work.items >= _ITEMS_FOR_PROCESSES else 1)


def _make(work: WorkFolder, staging: Path, settings: BuildSettings, number: int) -> Manifest:
    """Write everything but the manifest into the staging folder; return the manifest."""
    projection = _projection(work, settings.code_dim)
    with _workers(work, settings) as workers:
        # 1. Which shard each row belongs to, and which attributes there are.
        surveys = workers.run(
            survey,
            survey_tasks(work, settings.num_shards, workers.processes),
            "read items",
            work.items,
        )
        shard_of_row, attributes = merge(surveys)
        rows = [np.flatnonzero(shard_of_row == shard) for shard in range(settings.num_shards)]
        # 2. Each shard's files, by as many processes as there are cores.
        tasks = _shard_tasks(work, staging, settings, rows, attributes, projection)
        workers.run(write_shard, tasks, "build shards", work.items)
        # 3. What a search over all shards finds, against exact search.
        with durable(staging / PROBES_FILE) as file:
            file.write((work.folder / PROBES_FILE).read_bytes())
        gate = _measure(workers, work, staging, rows, settings.required_recall)
    code_dim = work.encoder.dim if projection is None else projection.shape[1]
    parameters = replace(settings.parameters, code_dim=code_dim)
    return _manifest(work, staging, parameters, rows, attributes, gate, number)


def _projection(work: WorkFolder, code_dim: int | None) -> NDArray[np.float32] | None:
    """Return what all shards' codes are made with; one for all, so that shards do not differ.

    Raises:
        CommandError: code_dim is more than there are dimensions.
    """
    if code_dim is not None and code_dim > work.encoder.dim:
        raise CommandError(
            f"code_dim is {code_dim}; the encoder's vectors allow 1..{work.encoder.dim}"
        )
    # Sums of several threads would differ from run to run.
    with single_threaded():
        return fit(work.vectors(), code_dim)


def _shard_tasks(
    work: WorkFolder,
    staging: Path,
    settings: BuildSettings,
    rows: Sequence[Rows],
    attributes: Sequence[AttributeEntry],
    projection: NDArray[np.float32] | None,
) -> list[ShardTask]:
    schema = {entry.name: entry.type for entry in attributes}
    return [
        ShardTask(work, staging, shard, own_rows, schema, settings.parameters, projection)
        for shard, own_rows in enumerate(rows)
    ]


def _measure(
    workers: Workers, work: WorkFolder, staging: Path, rows: Sequence[Rows], required_recall: float
) -> GateEntry:
    """Measure the gate; a generation below it is published all the same, and says so."""
    items = [len(own_rows) for own_rows in rows]
    gate = choose(
        ShardsMeasured(workers, staging, items, work.encoder.dim), required_recall, len(items)
    )
    warn_below(gate)
    return replace(gate, queries_given=work.queries_given)


def _manifest(
    work: WorkFolder,
    staging: Path,
    parameters: IndexParameters,
    rows: Sequence[Rows],
    attributes: tuple[AttributeEntry, ...],
    gate: GateEntry,
    generation: int,
) -> Manifest:
    return Manifest(
        format_version=FORMAT_VERSION,
        generation=generation,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        software_version=software_version(),
        seq=work.seq,
        encoder=work.encoder,
        compatible_query_encoders=work.compatible_query_encoders,
        num_shards=len(rows),
        num_buckets=NUM_BUCKETS,
        bucket_hash=BUCKET_HASH,
        items=work.items,
        byte_order=sys.byteorder,
        faiss_version=faiss.__version__,
        index=parameters,
        attributes=attributes,
        gate=gate,
        files={PROBES_FILE: entry_of(staging / PROBES_FILE)},
        shards=shard_entries(staging, [len(own_rows) for own_rows in rows]),
    )


def _key(work: WorkFolder, settings: BuildSettings) -> str:
    """Return a name for everything that the shards' files depend on."""
    made_with = (
        FORMAT_VERSION,
        settings.num_shards,
        *astuple(settings.parameters),
        faiss.__version__,
    )
    return xxhash.xxh3_64_hexdigest(f"{work.fingerprint()} {made_with}".encode())
