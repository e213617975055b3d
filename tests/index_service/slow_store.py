"""An index service over a store that stops in the middle of one file: slow://FOLDER.

`python -m tests.index_service.slow_store` takes the flags of `python -m index_service`.
"""

import os
import time
from pathlib import Path

import fsspec
from fsspec.implementations.local import LocalFileSystem

from index_service.__main__ import main

STOPS_AT = "SLOW_STORE_STOPS_AT"
"""Environment variable: the name of the file of which only a half arrives."""


class SlowFileSystem(LocalFileSystem):
    """A folder that is not used in place, but copied from."""

    protocol = "slow"

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(str(path).removeprefix("slow://"))

    def get_file(self, rpath, lpath, **_):
        content = Path(rpath).read_bytes()
        half = len(content) // 2
        with Path(lpath).open("wb") as file:
            file.write(content[:half])
            file.flush()
            if os.environ.get(STOPS_AT) == Path(rpath).name:
                time.sleep(600)
            file.write(content[half:])


if __name__ == "__main__":
    fsspec.register_implementation("slow", SlowFileSystem)
    main()
