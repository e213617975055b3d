"""What is said when memory runs out."""

from collections.abc import Iterator
from contextlib import contextmanager

from rpc.terminal import CommandError

# Of torch on a CPU and on a GPU, of C++ and of onnxruntime: all RuntimeErrors like any other.
_SAID = (
    "out of memory", "not enough memory", "can't allocate memory", "failed to allocate memory",
    "bad_alloc",
)  # fmt: skip


@contextmanager
def out_of_memory_as_sentence(remedy: str) -> Iterator[None]:
    """Say what to lower when memory runs out.

    Raises:
        CommandError: it did.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as exc:
        if not is_out_of_memory(exc):
            raise
        raise CommandError(f"out of memory: {remedy}") from exc


def is_out_of_memory(exc: BaseException) -> bool:
    """Tell it from other errors; torch has a type of its own for it on a GPU alone."""
    text = str(exc).lower()
    return isinstance(exc, MemoryError) or any(words in text for words in _SAID)
