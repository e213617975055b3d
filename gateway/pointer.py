"""The pointer to the promoted generation, as a gateway reads it beside its probes."""

import asyncio

from rpc.active import Active, read_active
from rpc.errors import Unavailable, VitrineError
from rpc.telemetry import get_logger


class Pointer:
    """Reads active.json, one read at a time; a read may outlast those who wait for it.

    Attributes:
        error: why it could not be read when it was last tried; None where it could.
    """

    def __init__(self, generations_url: str) -> None:
        self.error: Unavailable | None = None
        self._url = generations_url
        self._reading: asyncio.Task[Active] | None = None
        self._log = get_logger()

    async def read(self, timeout_s: float) -> Active | None:
        """Return what is active; None where it cannot be read, or was moved meanwhile."""
        if self._reading is None:
            self._reading = asyncio.create_task(asyncio.to_thread(read_active, self._url))
        reading = self._reading
        await asyncio.wait({reading}, timeout=timeout_s)
        if self._reading is not reading:
            return None
        if not reading.done():
            self._fail(TimeoutError(f"no answer in {timeout_s:g} s"))
            return None
        self._reading = None
        if (error := reading.exception()) is not None:
            self._fail(error)
            return None
        self.error = None
        return reading.result()

    def forget(self) -> None:
        """Take nothing from a read that is under way: the pointer has been moved."""
        self.error = self._reading = None

    async def close(self) -> None:
        """Wait for no read any more."""
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)

    def _fail(self, error: BaseException) -> None:
        # A file system tells what it is about; what a store's client says is for the log alone.
        shown = isinstance(error, VitrineError | OSError)
        why = f"the pointer cannot be read: {error if shown else type(error).__name__}"
        if str(self.error) != why:
            self._log.warning(
                "the pointer cannot be read", error=str(error), kind=type(error).__name__
            )
        self.error = Unavailable("POINTER_UNREADABLE", why)
