"""Reads the documents: their blocks of code, commands, links and tables."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(
    [*ROOT.glob("*.md"), *DOCS.rglob("*.md"), *ROOT.glob("deploy/**/*.md")],
    key=lambda page: page.relative_to(ROOT).parts,
)
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """One block of code."""

    language: str
    text: str
    line: int


def blocks_of(page: Path) -> list[Block]:
    """Return a page's blocks of code, in order."""
    text = page.read_text()
    return [
        Block(found[1], found[2], text.count("\n", 0, found.start()) + 1)
        for found in _FENCE.finditer(text)
    ]


def commands_of(block: Block) -> list[str]:
    """Return the commands of a block, each of which may run over several lines.

    >>> commands_of(Block("sh", "a -b \\\\\\n  c\\nd '\\n  e'\\n", 1))
    ['a -b \\\\\\n  c', "d '\\n  e'"]
    """
    commands: list[str] = []
    pending = ""
    for line in block.text.splitlines():
        pending = f"{pending}\n{line}" if pending else line
        if not _is_open(pending):
            commands.append(pending)
            pending = ""
    assert not pending, f"line {block.line}: a command does not end: {pending}"
    return [command for command in commands if command.strip()]


def links_of(page: Path) -> list[str]:
    """Return the targets of a page's links, those in blocks of code left out."""
    return _LINK.findall(_FENCE.sub("", page.read_text()))


def anchors_of(page: Path) -> set[str]:
    """Return the names by which headings of a page are linked to."""
    headings = _HEADING.findall(_FENCE.sub("", page.read_text()))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def section_of(page: Path, heading: str) -> str:
    """Return the text below a heading, up to the next one of its level or above."""
    text = page.read_text()
    start = re.search(rf"^(#+) {re.escape(heading)}$", text, re.MULTILINE)
    assert start, f"{page.name} has no heading {heading!r}"
    end = re.search(rf"^#{{1,{len(start[1])}}} ", text[start.end() :], re.MULTILINE)
    return text[start.end() :][: end.start() if end else None]


def rows_of(text: str) -> Iterator[list[str]]:
    """Yield the cells of every row of every table in a text, heads and rules left out."""
    lines = text.splitlines()
    for place, line in enumerate(lines):
        is_rule = re.fullmatch(r"\|[-:| ]+\|", line)
        is_head = place + 1 < len(lines) and re.fullmatch(r"\|[-:| ]+\|", lines[place + 1])
        if line.startswith("|") and not is_rule and not is_head:
            yield [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def names_in(text: str) -> list[str]:
    """Return what stands in backquotes."""
    return re.findall(r"`([^`]+)`", text)


def _is_open(command: str) -> bool:
    """Tell whether a shell would wait for another line."""
    opened = command.count("{") - command.count("}") if "() {" in command else 0
    return command.endswith("\\") or _in_quotes(command) or opened > 0


def _in_quotes(command: str) -> bool:
    """Tell whether the command ends inside quotes."""
    quote = ""
    escaped = False
    for character in command:
        if escaped:
            escaped = False
        elif character == "\\" and quote != "'":
            escaped = True
        elif not quote and character in "'\"":
            quote = character
        elif character == quote:
            quote = ""
    return bool(quote)
