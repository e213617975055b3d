"""`vitrine reshard`: a generation cut into another number of shards, without embedding again."""

from dataclasses import dataclass
from typing import Any

from cli.arguments import utf8
from cli.generation import promote
from cli.home import Home, only_one
from cli.signals import stop_signals_interrupt
from cli.stages import StageFailed, run_stage
from rpc.errors import VitrineError
from rpc.terminal import CommandError


@dataclass(frozen=True, slots=True)
class ReshardOptions:
    """What `vitrine reshard` can be told."""

    shards: int
    generation: int = 0
    promote: bool = False
    force_reason: str = ""


def reshard(home: Home, options: ReshardOptions) -> dict[str, Any]:
    """Make and publish the new generation; return what the stage reports of it.

    Raises:
        CommandError: there is no such home, a build runs here, it failed, or it was interrupted.
    """
    home.require_there()
    utf8("--force-reason", options.force_reason)
    refusal = f"a build is running in {home.path}; wait for it to end"
    arguments = ["--generations", f"{home.generations}", "--shards", f"{options.shards}"]
    arguments += ["--generation", f"{options.generation}"]
    with only_one(home.path / "build.lock", refusal) as lock:
        try:
            with stop_signals_interrupt():
                result = run_stage("index_service.build.reshard", arguments, inherited=[lock])
        except StageFailed as exc:
            raise CommandError(
                f"resharding stopped: {exc}; finished shards are kept: run the same command again "
                "once that is mended"
            ) from exc
        except KeyboardInterrupt:
            raise CommandError(
                "resharding was interrupted; run the same command again to go on: finished shards "
                "are kept, and published generations are untouched"
            ) from None
    if options.promote:
        _promote(home, int(result.values["generation"]), options.force_reason)
    return {**result.values, "promoted": options.promote}


def _promote(home: Home, generation: int, force_reason: str) -> None:
    try:
        promote(home, generation, force_reason)
    except (CommandError, VitrineError) as exc:
        raise CommandError(
            f"generation {generation} is made but not promoted: {exc}; try again with `vitrine "
            f"generation promote {generation} --home {home.path}`, once as many index services "
            "run as it has shards"
        ) from exc
