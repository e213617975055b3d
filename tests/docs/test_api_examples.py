"""The commands of docs/api.md, run as they stand, and their answers, against a running demo."""

import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import grpc
import orjson
import pytest

from tests.docs.pages import DOCS, ROOT, Block, blocks_of, commands_of

API = DOCS / "api.md"
# grpcurl's exit status for a gRPC status is 64 more than its number.
GRPCURL_STATUS = 64
CODES = {code.name.replace("_", ""): code.value[0] for code in grpc.StatusCode}


@dataclass(frozen=True)
class Ran:
    """One command as shown and what it gave; `shown` is the answer that the page shows below."""

    command: str
    status: int
    output: str
    errors: str
    shown: str | None


def expected_status(command: str) -> int:
    """Return the status that a command announces with a comment at its end."""
    announced = re.search(r"  # (\w+)$", command)
    return GRPCURL_STATUS + CODES[announced[1].upper()] if announced else 0


def commands_with_answers() -> list[tuple[str, str | None]]:
    """Return the page's shell commands, the last of a block with the JSON block that follows it."""
    blocks = blocks_of(API)
    following: list[Block | None] = [*blocks[1:], None]
    found: list[tuple[str, str | None]] = []
    for block, after in zip(blocks, following, strict=True):
        if block.language != "sh":
            continue
        commands = commands_of(block)
        found += [(command, None) for command in commands[:-1]]
        found.append((commands[-1], after.text if after and after.language == "json" else None))
    return found


@pytest.fixture(scope="module")
def ran(demo_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Ran]:
    """Every command of the page, run in one shell, in the page's order."""
    out = tmp_path_factory.mktemp("answers")
    shown = commands_with_answers()
    script = "".join(
        f"{{ {command}\n}} >{out}/{place}.out 2>{out}/{place}.err\necho $? >{out}/{place}.status\n"
        for place, (command, _) in enumerate(shown)
    )
    subprocess.run(["bash", "-c", script], cwd=demo_folder, timeout=240, check=False)
    return [
        Ran(
            command,
            int((out / f"{place}.status").read_text()),
            (out / f"{place}.out").read_text(),
            (out / f"{place}.err").read_text(),
            answer,
        )
        for place, (command, answer) in enumerate(shown)
    ]


def test_every_command_gives_the_status_that_the_page_announces(ran):
    for each in ran:
        assert each.status == expected_status(each.command), f"{each.command}\n{each.errors}"


def test_every_answer_shown_has_the_form_of_the_real_one(ran):
    answered = [each for each in ran if each.shown is not None]
    assert len(answered) > 15
    for each in answered:
        problem = difference(orjson.loads(each.shown), orjson.loads(each.output))
        assert not problem, f"{each.command}\n{problem}"


def test_the_python_client_runs_as_it_stands(ran, demo_folder):
    (client,) = [block.text for block in blocks_of(API) if block.language == "python"]
    processes = orjson.loads((demo_folder / ".vitrine/demo/run/processes.json").read_bytes())
    (address,) = [each["address"] for each in processes["processes"] if each["role"] == "gateway"]
    done = subprocess.run(
        [sys.executable, "-c", client, address],
        cwd=ROOT, capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    *results, summary = done.stdout.splitlines()
    assert len(results) == 3
    assert summary == "searched 100%, degraded: []"


def difference(shown: object, real: object, place: str = "answer") -> str:
    """Return where a shown answer has what the real one has not; empty when it has nothing such.

    What is shown may be less than what is real, and values may differ, but not their kinds.
    """
    if isinstance(shown, dict) and isinstance(real, dict):
        missing = shown.keys() - real.keys()
        if missing:
            return f"{place} has no {sorted(missing)}, only {sorted(real)}"
        problems = (difference(shown[key], real[key], f"{place}.{key}") for key in shown)
        return next(filter(None, problems), "")
    if isinstance(shown, list) and isinstance(real, list):
        return next(filter(None, (_not_among(each, real, place) for each in shown)), "")
    same = type(shown) is type(real) or {type(shown), type(real)} == {int, float}
    return "" if same else f"{place} is {real!r}, shown as {shown!r}"


def _not_among(shown: object, real: list[object], place: str) -> str:
    """Return why an element shown is like none of the real ones; empty when it is like one."""
    problems = [difference(shown, each, f"{place}[]") for each in real]
    return "" if "" in problems else (problems[0] if problems else f"{place} is empty")


@pytest.mark.parametrize(
    ("shown", "real", "problem"),
    [
        ({"a": 1}, {"a": 2.5, "b": 1}, ""),
        ({"a": 1}, {"b": 1}, "answer has no ['a'], only ['b']"),
        ({"a": [{"b": "x"}]}, {"a": [{"c": 1}, {"b": "y"}]}, ""),
        ({"a": [{"b": "x"}]}, {"a": []}, "answer.a is empty"),
        ({"a": "1"}, {"a": 1}, "answer.a is 1, shown as '1'"),
    ],
)
def test_an_answer_is_compared_by_its_form(shown, real, problem):
    assert difference(shown, real) == problem
