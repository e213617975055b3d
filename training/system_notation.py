"""How systems that can be compared are written: BM25, encoders, fusions and rerankings.

A system is written as

    bm25                    or bm25?k1=1.2&b=0.9; tuned on dev where nothing is given
    PATH                    a bi-encoder or an encoder bundle, exact search
    PATH?dim=256            its first dimensions alone
    PATH?ef_search=64       through a FAISS HNSW index; both can be joined by &
    PATH@PATH               queries by the first encoder over items by the second
    rrf:DENSE+LEXICAL       two systems named before; or rrf:A+B?lexical_weight=0.5
    weighted:DENSE+LEXICAL  the same by scores; or weighted:A+B?alpha=0.7&short_alpha=0.2, which
                            is the alpha of queries of few words, and alpha where it is not given
    rerank:A+PATH?depth=50  the first hits of a system named before, by a cross-encoder

and `NAME=SYSTEM` gives it a name. Weights that are not given are tuned on dev.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rpc.terminal import CommandError

HITS_MAX = 100
NOTATION = "@?"  # what ends a path
_RANGES = {
    "k1": (0.0, 10.0), "b": (0.0, 1.0), "dim": (1, 1 << 16), "ef_search": (1, 1 << 16),
    "lexical_weight": (0.0, 100.0), "alpha": (0.0, 1.0), "short_alpha": (0.0, 1.0),
    "depth": (1, HITS_MAX),
}  # fmt: skip
FUSIONS = ("rrf", "weighted")
_WHOLE = ("dim", "ef_search", "depth")
_KEYS = {
    "bm25": ("k1", "b"),
    "encoder": ("dim", "ef_search"),
    "rrf": ("lexical_weight",),
    "weighted": ("alpha", "short_alpha"),
    "rerank": ("depth",),
}


@dataclass(frozen=True, slots=True)
class Written:
    """A system as it is written.

    Attributes:
        name: what the report calls it.
        kind: "bm25", "encoder", "rrf", "weighted" or "rerank".
        source: path or id of a bi-encoder or of the cross-encoder.
        items: path or id of the bi-encoder of items where it is another; else empty.
        parts: names of the systems it is made of: dense and lexical, or the one that is reranked.
        options: what stands behind the question mark.
    """

    name: str
    kind: str
    source: str
    items: str
    parts: tuple[str, ...]
    options: Mapping[str, float]

    @property
    def is_whole(self) -> bool:
        """Whether it is an encoder with all dimensions, its own items and exact search."""
        return self.kind == "encoder" and not self.options and not self.items


def require_plain(what: str, path: str) -> None:
    """Refuse a path that cannot be written as a system's.

    Raises:
        CommandError: it holds what is notation.
    """
    if found := [sign for sign in NOTATION if sign in path]:
        raise CommandError(
            f"{what} is {path!r}; {found[0]} is notation of systems: give a folder without it"
        )


def parse_systems(written: Sequence[str]) -> list[Written]:
    """Return the systems, each with a name of its own.

    Raises:
        CommandError: one cannot be understood, or has the name of another.

    >>> [(s.name, s.kind) for s in parse_systems(["bm25", "ours=runs/a/model", "rrf:ours+bm25"])]
    [('bm25', 'bm25'), ('ours', 'encoder'), ('rrf', 'rrf')]
    """
    systems: dict[str, Written] = {}
    for text in written:
        system = _parse(text)
        if system.name in systems:
            raise CommandError(f"two systems are called {system.name}; write NAME={text}")
        for part in system.parts:
            if part not in systems:
                raise CommandError(
                    f"{text}: {part!r} is no system named before it; there are "
                    f"{', '.join(systems) or 'none'}"
                )
        systems[system.name] = system
    return list(systems.values())


def made_of(name: str, systems: Mapping[str, Written]) -> frozenset[str]:
    """Return the names of a system and of all that it is made of, each once.

    >>> systems = {s.name: s for s in parse_systems(["bm25", "ours=a", "rrf:ours+bm25"])}
    >>> sorted(made_of("rrf", systems))
    ['bm25', 'ours', 'rrf']
    """
    return frozenset({name}).union(*(made_of(part, systems) for part in systems[name].parts))


def _parse(text: str) -> Written:
    name, source, options = _split(text)
    kind = "bm25" if source == "bm25" else "encoder"
    parts: tuple[str, ...] = ()
    if match := re.fullmatch(r"(rrf|weighted):([^+]+)\+([^+]+)", source):
        kind, parts = match[1], (match[2], match[3])
    if match := re.fullmatch(r"rerank:([^+]+)\+(.+)", source):
        kind, parts, source = "rerank", (match[1],), match[2]
    source, _, items = source.partition("@") if kind == "encoder" else (source, "", "")
    name = name or (kind if parts else source.rstrip("/").rsplit("/", 1)[-1])
    if not re.fullmatch(r"[\w.-]{1,64}", name):
        raise CommandError(f"system name is {name!r}; allowed letters, digits, '.', '_', '-'")
    return Written(name, kind, source, items, parts, _parse_options(text, options, _KEYS[kind]))


def _split(text: str) -> tuple[str, str, str]:
    """Return name, source and options of `NAME=SOURCE?OPTIONS`.

    >>> _split("a=runs/b?dim=2"), _split("bm25?k1=1")
    (('a', 'runs/b', 'dim=2'), ('', 'bm25', 'k1=1'))
    """
    before, _, options = text.partition("?")
    name, equals, source = before.partition("=")
    return (name, source, options) if equals else ("", before, options)


def _parse_options(text: str, options: str, keys: Sequence[str]) -> dict[str, float]:
    found: dict[str, float] = {}
    for part in filter(None, options.split("&")):
        key, _, value = part.partition("=")
        if key not in keys:
            raise CommandError(f"{text}: {key!r} is no option of it; allowed {', '.join(keys)}")
        low, high = _RANGES[key]
        try:
            found[key] = float(value)
        except ValueError:
            found[key] = float("nan")
        whole = key in _WHOLE
        if not low <= found[key] <= high or (whole and not found[key].is_integer()):
            numbers = "whole numbers " if whole else ""
            raise CommandError(f"{text}: {key} is {value!r}; allowed {numbers}{low}..{high}")
    return found
