"""Options that take several values: `--items a.jsonl b.jsonl` means `--items` given twice."""

from collections.abc import Sequence

TAKES_SEVERAL = ("--items", "--map", "--like", "--unlike", "--fields", "--system")


def spread(arguments: Sequence[str], options: Sequence[str] = TAKES_SEVERAL) -> list[str]:
    """Repeat an option before each of the values that follow it.

    >>> spread(["--items", "a", "b", "--shards", "2"])
    ['--items', 'a', '--items', 'b', '--shards', '2']
    """
    repeated: list[str] = []
    current = ""
    for place, argument in enumerate(arguments):
        if argument == "--":
            return [*repeated, *arguments[place:]]
        if argument.startswith("-") and len(argument) > 1:
            current = argument if argument in options else ""
            repeated.append(argument)
            continue
        if current and repeated[-1] != current:
            repeated.append(current)
        repeated.append(argument)
    return repeated
