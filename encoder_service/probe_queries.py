"""The queries that a generation's recall is measured with: given, or made of titles."""

from pathlib import Path

import numpy as np

from rpc.terminal import CommandError, warn

PROBE_SEED = 1
PROBE_WORDS = (2, 5)
QUERIES_ENOUGH = 100
"""From so many on, a miss among their first ten is at most a thousandth of ann_recall@10."""


def read_queries(path: Path, most: int) -> list[str]:
    """Return distinct queries of a text file, one a line; some of them, where there are more.

    The same file gives the same queries. Blank lines do not count.

    Raises:
        CommandError: it cannot be read, or has none.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as exc:
        raise CommandError(
            f"{path} cannot be read: {exc}; --queries names a UTF-8 text file, one query a line"
        ) from exc
    queries = list(dict.fromkeys(line.strip() for line in lines if line.strip()))
    if not queries:
        raise CommandError(f"{path} has no queries; write one a line")
    if len(queries) < QUERIES_ENOUGH:
        warn(
            f"{path} has {len(queries)} queries; with fewer than {QUERIES_ENOUGH}, ann_recall@10 "
            "is uncertain"
        )
    rng = np.random.default_rng(PROBE_SEED)
    chosen = rng.choice(len(queries), size=min(most, len(queries)), replace=False)
    return [queries[place] for place in np.sort(chosen)]


def words_of(title: str, rng: np.random.Generator) -> str:
    """Return a short query made of some words of a title, in their order.

    >>> words_of("Navy Rain Boots", np.random.default_rng(0)).split()[-1] in "Navy Rain Boots"
    True
    """
    words = title.split()
    count = min(len(words), int(rng.integers(PROBE_WORDS[0], PROBE_WORDS[1] + 1)))
    kept = sorted(rng.choice(len(words), size=count, replace=False))
    return " ".join(words[place] for place in kept)
