"""Texts that are nearly equal: found by MinHash, confirmed by their true overlap."""

import re
import unicodedata
from collections.abc import Iterable, Sequence

import xxhash
from datasketch import MinHash, MinHashLSH

from rpc.terminal import progress_bar

NUM_PERMUTATIONS = 128
# Of a false candidate and a missed pair, the first costs a comparison, the second a leak. So 16
# bands of 8: a pair of overlap 0.8 is found with probability 1 - (1 - 0.8^8)^16 = 0.947.
# Source: Leskovec, Rajaraman and Ullman, Mining of Massive Datasets, section 3.4.
WEIGHTS = (0.05, 0.95)
TITLE_OVERLAP = 0.8
REVIEW_OVERLAP = 0.7
_WORD = re.compile(r"\w+")

Shingles = frozenset[str]


class Groups:
    """Members 0..n-1 in groups that can be joined (union-find); a group is named by its least."""

    def __init__(self, size: int) -> None:
        self._parents = list(range(size))

    def join(self, left: int, right: int) -> None:
        """Make one group of two."""
        first, second = sorted((self.group_of(left), self.group_of(right)))
        self._parents[second] = first

    def group_of(self, member: int) -> int:
        """Return the least member of the group."""
        while (parent := self._parents[member]) != member:
            self._parents[member] = self._parents[parent]
            member = parent
        return member

    def numbers(self) -> list[int]:
        """Return each member's group."""
        return [self.group_of(member) for member in range(len(self._parents))]


def key_of(text: str) -> str:
    """Return what two texts share when they differ in case, punctuation and spacing alone.

    How Unicode writes them (NFKC) is no difference. A text of symbols alone is its own key.

    >>> key_of("Women's T-Shirt,  RED") == key_of("women s t shirt red")
    True
    >>> key_of("Cafe\N{COMBINING ACUTE ACCENT}"), key_of("***"), key_of("\N{BLACK STAR}")
    ('café', '***', '★')
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(_WORD.findall(folded) or folded.split())


def digest(text: str, seed: int = 0) -> int:
    """Return 64 bits that stand for a text."""
    return xxhash.xxh3_64_intdigest(text.encode(), seed=seed)


def near_equal(texts: Sequence[str], words: int, overlap: float, what: str) -> Groups:
    """Return groups of texts of which each shares enough shingles with another of its group.

    Candidates come from MinHash, so of pairs whose overlap is just the least, 1 in 19 is missed.

    Args:
        texts: what to compare.
        words: words a shingle; 1 compares sets of words.
        overlap: least Jaccard index of two texts' shingles, 0..1.
        what: what the progress bar calls it.
    """
    groups = Groups(len(texts))
    index = MinHashLSH(threshold=overlap, num_perm=NUM_PERMUTATIONS, weights=WEIGHTS)
    all_shingles = [shingles_of(text, words) for text in texts]
    with progress_bar(what, len(texts)) as advance:
        for member, shingles in enumerate(all_shingles):
            sketch = _sketch(shingles)
            for other in index.query(sketch):
                if jaccard(shingles, all_shingles[int(str(other))]) >= overlap:
                    groups.join(member, int(str(other)))
            index.insert(str(member), sketch)
            advance(1)
    return groups


def shingles_of(text: str, words: int) -> Shingles:
    """Return every run of so many words; of a shorter text the whole.

    >>> sorted(shingles_of("Soft and warm", 2))
    ['and warm', 'soft and']
    """
    found = key_of(text).split()
    runs = range(max(1, len(found) - words + 1))
    return frozenset(" ".join(found[start : start + words]) for start in runs)


def jaccard(left: Shingles, right: Shingles) -> float:
    """Return the share of all shingles that both have, 0..1.

    >>> jaccard(frozenset("abc"), frozenset("bcd"))
    0.5
    """
    return len(left & right) / len(left | right)


def _sketch(shingles: Iterable[str]) -> MinHash:
    sketch = MinHash(num_perm=NUM_PERMUTATIONS, seed=1)
    sketch.update_batch([shingle.encode() for shingle in shingles])
    return sketch
