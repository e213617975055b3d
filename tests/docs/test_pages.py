"""Commands in the documents parse, links lead somewhere, and the project speaks of itself alone."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

from cli.__main__ import app
from cli.arguments import spread
from rpc.filter_expression import parse_filter
from tests.docs.pages import PAGES, ROOT, anchors_of, blocks_of, commands_of, links_of, names_in

FORBIDDEN = re.compile(
    r"(?<![\w.])/(?:home|mnt|opt|root|tmp|usr/local|work)/|index-url|\bshared/data\b",
    re.IGNORECASE,
)
# typer brings click along in some versions and not in others, so its types are not named here.
CLI: Any = typer.main.get_command(app)


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def shell_commands():
    """Yield every command in a block of shell code, comments and continuations resolved."""
    for page in PAGES:
        for block in blocks_of(page):
            if block.language in ("sh", "bash"):
                for command in commands_of(block):
                    yield name_of(page), command.replace("\\\n", " ")


def vitrine_commands():
    """Return page and arguments of every use of `vitrine`, in blocks and in running text."""
    found = []
    for page, command in shell_commands():
        words = shlex.split(command, comments=True)
        if words and words[0] == "vitrine":
            found.append((page, words[1:]))
    for page in PAGES:
        text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
        for quoted in re.findall(r"`([^`]+)`", text):
            if quoted.startswith("vitrine ") and "..." not in quoted:
                words = shlex.split(quoted.replace("\n", " "))
                found.append((name_of(page), words[1:]))
    return found


def parse(arguments: list[str]) -> None:
    """Read a command line as `vitrine` would, without running it; raises when it would refuse.

    What names a command alone, as running text does, needs none of its arguments.
    """
    command, rest = CLI, list(arguments)
    while hasattr(command, "commands") and rest:
        assert rest[0] in command.commands, f"there is no command {rest[0]!r}"
        command, rest = command.commands[rest[0]], rest[1:]
    if rest:
        command.make_context("vitrine", spread(rest))


@pytest.mark.parametrize(
    ("page", "arguments"), vitrine_commands(), ids=lambda value: str(value)[:60]
)
def test_every_vitrine_command_exists_with_its_options(page, arguments):
    # N stands for a number that a reader puts there.
    parse(["1" if word == "N" else word for word in arguments])


def test_enough_commands_are_found_to_mean_something():
    assert len(vitrine_commands()) > 40


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["search", "coat", "--no-such-option"], "No such option"),
        (["generation", "promote", "soon"], "integer"),
        (["serch", "coat"], "there is no command"),
        (["bundle", "export", "--out", "x"], "Missing|missing|model"),
    ],
)
def test_a_command_that_is_wrong_is_noticed(arguments, problem):
    with pytest.raises(Exception, match=problem):
        parse(arguments)


def test_filters_in_the_documents_are_understood():
    filters = [
        arguments[arguments.index("--filter") + 1]
        for _, arguments in vitrine_commands()
        if "--filter" in arguments
    ]
    assert len(filters) >= 3
    for expression in filters:
        parse_filter(expression)


def test_the_grammar_in_the_documents_is_understood():
    text = (ROOT / "docs" / "api.md").read_text().partition("| written | means |")[2]
    table = text.partition("\n\n")[0]
    written = [name for row in table.splitlines()[2:] for name in names_in(row.split("|")[1])]
    shown = [each for each in written if re.search(r"[ (]", each)]
    assert len(shown) > 12
    for expression in shown:
        parse_filter(expression)


def test_make_targets_named_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in PAGES:
        for target in re.findall(r"`?\bmake ([a-z-]+)`", page.read_text()):
            assert target in targets, f"{name_of(page)}: make {target}"
    for page, command in shell_commands():
        words = shlex.split(command, comments=True)
        if words and words[0] == "make":
            assert words[1] in targets, f"{page}: {command}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_relative_links_lead_somewhere(page):
    for link in links_of(page):
        target, _, anchor = link.partition("#")
        if "://" in target or target.startswith("mailto:"):
            continue
        path = (page.parent / target).resolve() if target else page
        assert path.exists(), f"{name_of(page)}: {link}"
        if anchor and path.suffix == ".md":
            assert anchor in anchors_of(path), f"{name_of(page)}: {link}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_nothing_of_one_machine_is_in_a_page(page):
    found = FORBIDDEN.search(page.read_text())
    assert not found, f"{name_of(page)}: {found[0]}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_blocks_of_code_are_closed(page):
    assert page.read_text().count("\n```") % 2 == 0


def test_the_pages_that_a_newcomer_needs_are_there():
    names = {name_of(page) for page in PAGES}
    assert names >= {
        "README.md", "ARCHITECTURE.md", "CHANGELOG.md", "CONTRIBUTING.md", "docs/quickstart.md",
        "docs/data.md", "docs/api.md", "docs/operations.md",
    }  # fmt: skip


def test_the_readme_has_a_place_for_results():
    text = (ROOT / "README.md").read_text()
    assert text.index("<!-- results:begin -->") < text.index("<!-- results:end -->")
