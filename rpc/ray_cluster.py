"""A Ray cluster to work on: how it is joined, and how what its tasks return or raise comes back."""

import logging
import os
from typing import Any

from rpc.terminal import CommandError

LOCAL = "local"
"""The address that stands for a cluster of this machine alone, started here."""


def joined(address: str) -> Any:
    """Return Ray, with this process part of a cluster.

    Args:
        address: host:port or ray://host:port, or `LOCAL`.

    Raises:
        CommandError: Ray is not installed, or there is no cluster at the address.
    """
    # Builds tell nobody of themselves.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as exc:
        raise CommandError(
            "--ray needs Ray, which is not installed: pip install 'vitrine[ray]'"
        ) from exc
    # A cluster that is there has its own dashboard and priorities.
    started_here = {"include_dashboard": False, "_system_config": {"worker_niceness": 0}}
    options: dict[str, Any] = started_here if address == LOCAL else {}
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **options)
    except (ConnectionError, ValueError, RuntimeError) as exc:
        raise CommandError(
            f"there is no Ray cluster at {address}: {str(exc).splitlines()[0]}"
        ) from exc
    return ray


def cores(ray: Any) -> int:
    """Return how many cores the cluster has."""
    return max(1, int(ray.cluster_resources().get("CPU", 1)))


def result(ray: Any, reference: Any) -> Any:
    """Return what a task returned.

    Raises:
        CommandError: its machine or process is gone, or it said so.
        OSError: it ran into one.
    """
    exceptions = ray.exceptions
    try:
        return ray.get(reference)
    except exceptions.RayTaskError as exc:
        if isinstance(exc.cause, CommandError | OSError):
            raise exc.cause from None
        raise
    except exceptions.RayError as exc:
        raise CommandError(
            f"a task on the Ray cluster was lost: {str(exc).splitlines()[0]}; what is finished "
            "is kept, run the same command again"
        ) from exc
