"""`vitrine build`: items in, a published generation out, through four stages run as processes.

Every stage picks up where it was interrupted, so the same command run again goes on.
"""

import hashlib
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from cli.arguments import utf8
from cli.generation import promote
from cli.home import Home, only_one
from cli.signals import stop_signals_interrupt
from cli.stages import StageFailed, StageResult, command_line, run_stage
from cli.tables import size
from rpc.errors import VitrineError
from rpc.files import replace_file, replace_folder, sha256_of, sync_folder
from rpc.terminal import CommandError

DESCRIPTION_FILE = "encoder.json"
CATALOG_VARIABLE = "VITRINE_CATALOG"
_ENCODER_ID = re.compile(r"[0-9a-f]{24}")
_COPY_PREFIX = ".copying-"
_REPLACED_PREFIX = ".replaced-"


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """What `vitrine build` can be told."""

    bundle: Path
    items: Sequence[Path] = ()
    shards: int = 4
    catalog: str = ""
    mapping: Path | None = None
    map: Sequence[str] = ()
    format: str = "auto"
    on_error: str = "stop"
    replace: bool = False
    m: int | None = None
    ef_construction: int | None = None
    code_dim: int | None = None
    required_recall: float | None = None
    queries: Path | None = None
    tune: bool = False
    ray: str = ""
    promote: bool = False
    force_reason: str = ""


@dataclass(frozen=True, slots=True)
class StageReport:
    """One stage of a finished build."""

    stage: str
    seconds: float
    result: dict[str, Any]


@dataclass(frozen=True, slots=True)
class BuildReport:
    """A finished build."""

    generation: int
    encoder_id: str
    stages: tuple[StageReport, ...]
    promoted: bool

    def document(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return {
            "generation": self.generation,
            "encoder_id": self.encoder_id,
            "promoted": self.promoted,
            "stages": {
                each.stage: {"seconds": each.seconds, **each.result} for each in self.stages
            },
        }

    def rows(self) -> list[dict[str, Any]]:
        """Return it as rows of a table."""
        return [
            {
                "stage": each.stage,
                "seconds": f"{each.seconds:.1f}",
                "result": ", ".join(
                    _said(name, value)
                    for name, value in each.result.items()
                    if value and value is not True
                ),
            }
            for each in self.stages
        ]


@dataclass(frozen=True, slots=True)
class _Description:
    """What encoder.json says of a bundle: its id, its dim, bytes and SHA-256 of each file."""

    encoder_id: str
    dim: int
    """Zero where it is not said: what reads the bundle itself refuses such a one."""
    files: Mapping[str, tuple[int, str]]


def build(home: Home, options: BuildOptions) -> BuildReport:
    """Build a generation from the catalogue, after writing items into it.

    Raises:
        CommandError: another build runs here, a stage failed, or it was interrupted.
    """
    refusal = (
        f"another build is running in {home.path}; wait for it to end, or build into another "
        "folder with --home"
    )
    with only_one(home.path / "build.lock", refusal) as lock:
        try:
            with stop_signals_interrupt():
                return _build(home, options, lock)
        except StageFailed as exc:
            raise CommandError(
                f"the build stopped: {exc}; what is done so far is kept: run the same command "
                "again once that is mended"
            ) from exc
        except KeyboardInterrupt:
            raise CommandError(
                "the build was interrupted; run the same command again to go on: what is embedded "
                "stays embedded, and the promoted generation is untouched"
            ) from None


def copy_bundle(home: Home, bundle: Path) -> str:
    """Bring an encoder bundle into the home; return its encoder_id.

    Where the home has the recorded files already, only encoder.json is replaced: what was recorded
    of the bundle may have grown. Where it has others, damaged or of another export, all are.

    Raises:
        CommandError: the folder is no encoder bundle, or a file is not what encoder.json records.
    """
    description = _read_description(bundle)
    target = home.bundles / description.encoder_id
    home.bundles.mkdir(parents=True, exist_ok=True)
    _finish_killed_copies(home.bundles)
    if target.is_dir() and not _damage(target, description):
        replace_file(target / DESCRIPTION_FILE, (bundle / DESCRIPTION_FILE).read_bytes())
    else:
        replaced = target.with_name(f"{_REPLACED_PREFIX}{target.name}")
        replace_folder(_checked_copy(bundle, target), target, replaced)
    return description.encoder_id


def _build(home: Home, options: BuildOptions, lock: int) -> BuildReport:
    catalog = options.catalog or home.catalog_url
    _require_files(options.items)
    if options.queries and not options.queries.is_file():
        raise CommandError(
            f"there is no file {options.queries}; --queries names a text file, one query a line"
        )
    utf8("--force-reason", options.force_reason)
    _require_index_options(options, _read_description(options.bundle))
    encoder_id = copy_bundle(home, options.bundle)
    work = home.builds / _key(catalog, encoder_id)
    work.mkdir(parents=True, exist_ok=True)
    stages = []
    secrets = {CATALOG_VARIABLE: catalog}
    for stage, module, arguments in _stages(home, options, encoder_id, work):
        result = run_stage(module, arguments, inherited=[lock], secrets=secrets)
        stages.append(_report(stage, result))
    generation = int(stages[-1].result["generation"])
    shutil.rmtree(work)
    if options.promote:
        _promote(home, generation, options.force_reason)
    return BuildReport(generation, encoder_id, tuple(stages), options.promote)


def _promote(home: Home, generation: int, force_reason: str) -> None:
    try:
        promote(home, generation, force_reason)
    except (CommandError, VitrineError) as exc:
        raise CommandError(
            f"generation {generation} is built but not promoted: {exc}; try again with `vitrine "
            f"generation promote {generation} --home {home.path}`"
        ) from exc


def _stages(
    home: Home, options: BuildOptions, encoder_id: str, work: Path
) -> Sequence[tuple[str, str, list[str]]]:
    """Return each stage's name, module and command line, in order."""
    bundle = home.bundles / encoder_id
    export = ["--out", f"{work}"]
    embed = ["--bundle", f"{bundle}", "--items", f"{work / 'items.arrow'}"]
    embed += ["--cache", f"{home.embeddings}", "--out", f"{work}"]
    embed += command_line({"--ray": options.ray or None, "--queries": options.queries})
    index = ["--work", f"{work}", "--generations", f"{home.generations}"]
    index += ["--shards", f"{options.shards}", *_index_options(options)]
    stages = [
        ("export", "gateway.export", export),
        ("embed", "encoder_service.embed", embed),
        ("index", "index_service.build", index),
    ]
    if not options.items:
        return stages
    return [("ingest", "gateway.ingest", _ingest_arguments(options)), *stages]


def _ingest_arguments(options: BuildOptions) -> list[str]:
    arguments = [f"{file}" for file in options.items]
    arguments += ["--format", options.format, "--on-error", options.on_error]
    if options.mapping:
        arguments += ["--mapping", f"{options.mapping}"]
    for pair in options.map:
        arguments += ["--map", pair]
    if options.replace:
        arguments.append("--replace")
    return arguments


def _index_options(options: BuildOptions) -> list[str]:
    given = {
        "--m": options.m,
        "--ef-construction": options.ef_construction,
        "--code-dim": options.code_dim,
        "--required-recall": options.required_recall,
        "--ray": options.ray or None,
    }
    return [*command_line(given), *(["--tune"] if options.tune else [])]


def _require_files(files: Sequence[Path]) -> None:
    for file in files:
        if not file.is_file():
            raise CommandError(
                f"there is no file {file}; --items names JSONL, CSV or Parquet files"
            )


def _require_index_options(options: BuildOptions, bundle: _Description) -> None:
    """Refuse what the index stage would refuse once everything is exported and embedded."""
    if options.tune and (options.m is not None or options.code_dim is not None):
        raise CommandError("--tune finds --m and --code-dim itself; leave them out")
    if bundle.dim and options.code_dim is not None and options.code_dim > bundle.dim:
        raise CommandError(
            f"--code-dim is {options.code_dim}; the encoder makes vectors of {bundle.dim} "
            "dimensions, and codes have no more"
        )


def _read_description(bundle: Path) -> _Description:
    file = bundle / DESCRIPTION_FILE
    try:
        document = orjson.loads(file.read_bytes())
        description = _Description(
            encoder_id=str(document["encoder_id"]),
            dim=int(document.get("dim", 0)),
            files={
                name: (int(recorded["bytes"]), str(recorded["sha256"]))
                for name, recorded in document["files"].items()
            },
        )
    except FileNotFoundError as exc:
        raise CommandError(
            f"{bundle} is no encoder bundle: {DESCRIPTION_FILE} is missing; make one with `vitrine "
            "bundle export --model PATH_OR_ID --out DIR`"
        ) from exc
    except (ValueError, KeyError, TypeError, AttributeError) as exc:
        raise CommandError(f"{file} cannot be understood; export the bundle again") from exc
    if not _ENCODER_ID.fullmatch(description.encoder_id):
        raise CommandError(f"{file} names no valid encoder_id; export the bundle again")
    return description


def _finish_killed_copies(bundles: Path) -> None:
    """Put back what a kill left without its replacement; remove what else it left."""
    for replaced in bundles.glob(f"{_REPLACED_PREFIX}*"):
        target = bundles / replaced.name.removeprefix(_REPLACED_PREFIX)
        if target.exists():
            shutil.rmtree(replaced)
        else:
            replaced.rename(target)
    for half_copied in bundles.glob(f"{_COPY_PREFIX}*"):
        shutil.rmtree(half_copied)


def _checked_copy(bundle: Path, target: Path) -> Path:
    """Copy a bundle beside its place; return where, once every file is what is recorded of it."""
    aside = target.with_name(f"{_COPY_PREFIX}{target.name}")
    shutil.copytree(bundle, aside)
    if damage := _damage(aside, _read_description(aside)):
        shutil.rmtree(aside)
        raise CommandError(f"the bundle {bundle} is damaged: {damage}; export it again")
    _sync_files(aside)
    return aside


def _damage(folder: Path, description: _Description) -> str:
    """Return the first file that is not what is recorded, and how it differs; else nothing."""
    for name, (num_bytes, sha256) in description.files.items():
        if difference := _difference(folder / name, num_bytes, sha256):
            return f"{name} {difference}"
    return ""


def _difference(path: Path, num_bytes: int, sha256: str) -> str:
    try:
        if (got := path.stat().st_size) != num_bytes:
            return f"has {got} bytes, {num_bytes} are recorded"
        digest = sha256_of(path)
    except FileNotFoundError:
        return "is missing"
    return "" if digest == sha256 else "has another SHA-256 than is recorded"


def _key(catalog: str, encoder_id: str) -> str:
    """Return the name of the work folder: the same catalogue and encoder go on in the same one."""
    return hashlib.sha256(f"{catalog}\n{encoder_id}".encode()).hexdigest()[:16]


def _sync_files(folder: Path) -> None:
    for file in folder.rglob("*"):
        if file.is_file():
            descriptor = os.open(file, os.O_RDONLY)
            os.fsync(descriptor)
            os.close(descriptor)
    sync_folder(folder)


def _report(stage: str, result: StageResult) -> StageReport:
    values = {name: value for name, value in result.values.items() if name != "seconds"}
    return StageReport(stage, round(result.seconds, 3), values)


def _said(name: str, value: Any) -> str:
    """Return one figure of a stage's result for people."""
    if name == "bytes":
        return f"{size(value)} on disk"
    if isinstance(value, float):
        return f"{name.replace('_', ' ')} {value:,.4g}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{name.replace('_', ' ')} {value:,}"
    return f"{name.replace('_', ' ')} {value}"
