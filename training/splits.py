"""Train, dev and test, cut between product titles: no split knows a title of another."""

from collections.abc import Mapping, Sequence

from rpc.terminal import CommandError
from training.duplicates import TITLE_OVERLAP, Groups, digest, near_equal
from training.pairs import Pair

SHARES: Mapping[str, float] = {"train": 0.8, "dev": 0.1, "test": 0.1}
_HASH_RANGE = 1 << 64


def split_pairs(
    pairs: Sequence[Pair], groups: Mapping[str, str], shares: Mapping[str, float], seed: int
) -> list[str]:
    """Return the split of each pair: a hash of its title's group says it.

    Args:
        pairs: what to split.
        groups: the group of each title key; see `title_groups`.
        shares: each split's part, together 1.
        seed: the same seed splits alike.

    Raises:
        CommandError: a split is empty.
    """
    splits = [split_of(groups[pair.title_keys[0]], shares, seed) for pair in pairs]
    for name in shares:
        if name not in splits:
            raise CommandError(
                f"the split {name} is empty: {len(pairs)} pairs of {len(set(groups.values()))} "
                "products are too few; give more reviews, or filter fewer out"
            )
    return splits


def title_groups(pairs: Sequence[Pair]) -> dict[str, str]:
    """Return the group of each title key, named by the first of its keys.

    Titles that are nearly equal, or that one review stands under, are one group.
    """
    keys = sorted({key for pair in pairs for key in pair.title_keys})
    places = {key: place for place, key in enumerate(keys)}
    groups: Groups = near_equal(keys, 1, TITLE_OVERLAP, "comparing titles")
    for pair in pairs:
        for key in pair.title_keys[1:]:
            groups.join(places[pair.title_keys[0]], places[key])
    return {key: keys[groups.group_of(place)] for key, place in places.items()}


def split_of(group: str, shares: Mapping[str, float], seed: int) -> str:
    """Return the split that a group's hash falls into.

    >>> split_of("any", {"train": 1.0, "test": 0.0}, seed=7)
    'train'
    """
    position = digest(group, seed) / _HASH_RANGE
    for name, share in shares.items():
        if position < share:
            return name
        position -= share
    return list(shares)[-1]
