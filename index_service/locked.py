"""Keeps a file's pages in memory while others come and go."""

import ctypes
import mmap
import os
from pathlib import Path

import numpy as np


class LockedFile:
    """A file that stays in the file cache until it is closed, or this object goes."""

    def __init__(self, path: Path) -> None:
        """Read what is not in memory yet, and lock all of it.

        Whoever else maps the file finds it there: pages are locked, not this mapping of them.
        Without the privilege (CAP_IPC_LOCK), a process may lock as much as `ulimit -l` says.

        Raises:
            OSError: more may not be locked (EPERM, ENOMEM, EAGAIN), or the file cannot be read.
        """
        with path.open("rb") as file:
            self._mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self.size = len(self._mapped)
        content = np.frombuffer(self._mapped, dtype=np.uint8)
        libc = ctypes.CDLL(None, use_errno=True)
        # Unlocked when it is unmapped. Source: mlock(2).
        if libc.mlock(ctypes.c_void_p(content.ctypes.data), ctypes.c_size_t(content.nbytes)):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(path))

    def close(self) -> None:
        """Let the kernel take the pages back; closing twice is closing once."""
        self._mapped.close()

    @property
    def closed(self) -> bool:
        """Tell whether the file is locked no more."""
        return self._mapped.closed
