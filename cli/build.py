"""`vitrine build`: items in, a published generation out, through four stages run as processes.

Every stage picks up where it was interrupted, so the same command run again goes on.
"""

import hashlib
import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from cli.generation import promote
from cli.home import Home, only_one
from cli.signals import stop_signals_interrupt
from cli.stages import StageFailed, StageResult, command_line, run_stage
from cli.tables import size
from rpc.errors import VitrineError
from rpc.files import replace_file, sync_folder
from rpc.terminal import CommandError

DESCRIPTION_FILE = "encoder.json"
CATALOG_VARIABLE = "VITRINE_CATALOG"
_ENCODER_ID = re.compile(r"[0-9a-f]{24}")
_COPY_PREFIX = ".copying-"


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
    """Copy an encoder bundle into the home unless it is there; return its encoder_id.

    Of a bundle that is there, encoder.json is replaced: what was recorded of it may have grown.

    Raises:
        CommandError: the folder is no encoder bundle.
    """
    encoder_id = _encoder_id(bundle)
    target = home.bundles / encoder_id
    if target.is_dir():
        replace_file(target / DESCRIPTION_FILE, (bundle / DESCRIPTION_FILE).read_bytes())
        return encoder_id
    home.bundles.mkdir(parents=True, exist_ok=True)
    for left_over in home.bundles.glob(f"{_COPY_PREFIX}*"):
        shutil.rmtree(left_over)
    aside = home.bundles / f"{_COPY_PREFIX}{encoder_id}"
    shutil.copytree(bundle, aside)
    _sync_files(aside)
    aside.rename(target)
    sync_folder(home.bundles)
    return encoder_id


def _build(home: Home, options: BuildOptions, lock: int) -> BuildReport:
    catalog = options.catalog or home.catalog_url
    _require_files(options.items)
    if options.queries and not options.queries.is_file():
        raise CommandError(
            f"there is no file {options.queries}; --queries names a text file, one query a line"
        )
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


def _encoder_id(bundle: Path) -> str:
    file = bundle / DESCRIPTION_FILE
    try:
        encoder_id = str(orjson.loads(file.read_bytes())["encoder_id"])
    except FileNotFoundError as exc:
        raise CommandError(
            f"{bundle} is no encoder bundle: {DESCRIPTION_FILE} is missing; make one with `vitrine "
            "bundle export --model PATH_OR_ID --out DIR`"
        ) from exc
    except (orjson.JSONDecodeError, KeyError, TypeError) as exc:
        raise CommandError(f"{file} cannot be understood; export the bundle again") from exc
    if not _ENCODER_ID.fullmatch(encoder_id):
        raise CommandError(f"{file} names no valid encoder_id; export the bundle again")
    return encoder_id


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
