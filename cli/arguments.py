"""The command line as words: options that take several values, text that is none, no numbers.

`--items a.jsonl b.jsonl` means `--items` given twice.
"""

import math
from collections.abc import Sequence

import typer

from rpc.terminal import CommandError

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


def utf8(name: str, text: str) -> str:
    """Return a text that can be sent: a shell also hands over bytes that are no UTF-8.

    Raises:
        CommandError: it has such bytes.
    """
    try:
        text.encode()
    except UnicodeEncodeError as exc:
        raise CommandError(f"{name} is not valid UTF-8") from exc
    return text


def number(value: float | None) -> float | None:
    """Return a number of the command line; ranges alone let "nan" pass.

    Raises:
        BadParameter: it is none.
    """
    if value is not None and math.isnan(value):
        raise typer.BadParameter("nan is not a number")
    return value
