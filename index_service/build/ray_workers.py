"""Work on a Ray cluster: the same functions over the same tasks as `workers.Workers`.

Every machine of the cluster must see the work folder and the generations' folder at the same paths,
and have this software installed.
"""

from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

from index_service.build.workers import Advance, Result, Task, Workers, single_threaded
from rpc import ray_cluster
from rpc.errors import VitrineError
from rpc.terminal import CommandError, progress_bar


class RayWorkers(Workers):
    """Runs functions over tasks, each on one core of a cluster."""

    def __init__(self, address: str) -> None:
        """Join a cluster, or start one.

        Args:
            address: host:port or ray://host:port, or `ray_cluster.LOCAL`.

        Raises:
            CommandError: Ray is not installed, or there is no cluster at the address.
        """
        super().__init__(processes=1)
        self._ray = ray_cluster.joined(address)
        self.processes = ray_cluster.cores(self._ray)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # Leaves the cluster, and ends it if it was started here; tasks under way end with that.
        self._ray.shutdown()

    def run(
        self,
        work: Callable[[Task, Advance], Result],
        tasks: Sequence[Task],
        description: str,
        total: int,
    ) -> list[Result]:
        """Return the result of each task, in order; the first failure ends all.

        Raises:
            CommandError: a task failed, or its machine or process is gone.
        """
        # A task is not tried again: what it wrote might be there in part, and a build goes on by
        # being run again.
        remote = self._ray.remote(num_cpus=1, max_retries=0)(_work_alone)
        with progress_bar(description, total) as advance:
            pending = [remote.remote(work, task) for task in tasks]
            results: dict[Any, Any] = dict.fromkeys(pending)
            share, rest = divmod(total, max(1, len(tasks)))
            while pending:
                done, pending = self._ray.wait(pending)
                for each in done:
                    results[each] = ray_cluster.result(self._ray, each)
                    advance(share)
            advance(rest)
        return list(results.values())


def _work_alone(work: Callable[[Any, Advance], Any], task: Any) -> Any:
    """Do one task on one core of some machine."""
    try:
        with single_threaded():
            return work(task, _ignore)
    except VitrineError as exc:
        # These do not survive the way between processes; their sentence does.
        raise CommandError(str(exc)) from None


def _ignore(_: int) -> None:
    """Progress is told by the task: counting items across machines would cost more."""
