"""The command line as an operator meets it: sentences with a remedy, JSON for scripts."""

import hashlib
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import orjson
import pytest

from cli.arguments import spread
from cli.build import copy_bundle
from cli.home import only_one
from cli.offline import promote
from cli.processes import Process, State, read_state, start_time, write_state
from rpc.terminal import CommandError
from tests.cli.conftest import write_generation
from tests.index_service.catalogue import Catalogue, random_units
from tests.index_service.catalogue import build as build_index

ENCODER_ID = "ab" * 12


def write_bundle(
    folder: Path, encoder_id: str = ENCODER_ID, references: bytes = b"some", **described: object
) -> Path:
    """Write a bundle as far as the command reads it."""
    files = {"model.onnx": b"weights", "reference.json": references}
    recorded = {
        name: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for name, content in files.items()
    }
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    described |= {"encoder_id": encoder_id, "files": recorded}
    (folder / "encoder.json").write_bytes(orjson.dumps(described))
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.fixture
def bundle(tmp_path):
    return write_bundle(tmp_path / "bundle")


@pytest.fixture
def taken_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def test_several_values_may_follow_one_option():
    written = ["build", "--items", "a", "b", "--map", "x=1", "y=2", "--shards", "2", "--promote"]
    assert spread(written) == [
        *("build", "--items", "a", "--items", "b", "--map", "x=1", "--map", "y=2"),
        *("--shards", "2", "--promote"),
    ]


@pytest.mark.parametrize(
    "written",
    [
        ["search", "red dress", "--top-k", "3"],
        ["search", "--", "--like", "a", "b"],
        ["build", "--items=a", "--items", "b"],
        [],
    ],
)
def test_other_arguments_are_left_alone(written):
    assert spread(written) == written


def test_every_command_has_help_with_an_example():
    for command in (
        ["build"], ["reshard"], ["up"], ["down"], ["status"], ["search"], ["doctor"], ["demo"],
        ["bundle", "export"], ["bundle", "inspect"], ["bundle", "verify"],
        ["generation", "list"], ["generation", "promote"], ["generation", "rollback"],
    ):  # fmt: skip
        from typer.testing import CliRunner

        from cli.__main__ import app

        shown = CliRunner().invoke(app, [*command, "--help"])
        assert shown.exit_code == 0
        assert "Example" in shown.output, command


def test_the_package_runs_as_a_module():
    ran = subprocess.run(
        [sys.executable, "-m", "cli", "version"], capture_output=True, text=True, timeout=60
    )
    assert ran.returncode == 0
    assert ran.stdout.strip()


def test_up_without_a_generation_says_what_to_run(vitrine, home):
    ran = vitrine("up", "--home", home.path)
    assert (ran.status, ran.out) == (1, "")
    assert ran.err.startswith(f"error: no generation is promoted in {home.path}; build one with")
    assert not home.path.exists()


def test_up_without_the_generations_bundle_says_which(vitrine, home):
    write_generation(home, 1)
    promote(home, 1, "")
    ran = vitrine("up", "--home", home.path, "--port", "0")
    assert ran.status == 1
    assert f"the encoder bundle {ENCODER_ID}" in ran.err


def test_up_on_a_port_in_use_starts_nothing(vitrine, home, bundle, taken_port):
    write_generation(home, 1)
    promote(home, 1, "")
    copy_bundle(home, bundle)
    ran = vitrine("up", "--home", home.path, "--port", taken_port)
    assert ran.status == 1
    assert ran.err.startswith(f"error: cannot listen on 127.0.0.1:{taken_port}: ")
    assert "--port" in ran.err
    assert not home.logs.exists()


def ourselves(role: str = "gateway") -> Process:
    return Process(role, role, None, os.getpid(), start_time(os.getpid()), "x.log", "127.0.0.1:1")


def test_up_refuses_when_it_is_up(vitrine, home):
    write_generation(home, 1)
    promote(home, 1, "")
    write_state(home, State((ourselves(),), 1))
    ran = vitrine("up", "--home", home.path)
    assert ran.status == 1
    assert f"{home.path} is up already with its gateway at 127.0.0.1:1" in ran.err
    assert read_state(home).alive


def test_up_tells_the_reason_of_the_process_that_failed(vitrine, home, bundle):
    write_generation(home, 1)
    promote(home, 1, "")
    copy_bundle(home, bundle)
    ran = vitrine("up", "--home", home.path, "--port", "0")
    assert ran.status == 1
    assert ran.out == ""
    assert ran.err.startswith(("error: encoder: ", "error: shard-")), ran.err
    assert read_state(home) == State()


def test_down_and_status_of_nothing_are_no_errors(vitrine, home):
    assert vitrine("down", "--home", home.path).out == f"nothing was running for {home.path}\n"
    assert vitrine("status", "--home", home.path).out.startswith(f"nothing runs for {home.path};")
    assert vitrine("status", "--home", home.path, "--json").document == {
        "home": str(home.path),
        "running": False,
        "generation": 0,
        "processes": [],
    }


def test_status_tells_processes_that_ended_from_those_that_do_not_answer(vitrine, home):
    ended = Process("shard-1", "shard", 1, 2**22 + 1, 0.0, "x.log", "127.0.0.1:1")
    write_state(home, State((ended, ourselves()), 1))
    shard, gateway = vitrine("status", "--home", home.path, "--json").document["processes"]
    assert (shard["shard"], shard["alive"], shard["serving"]) == (1, False, False)
    assert (gateway["pid"], gateway["alive"], gateway["serving"]) == (os.getpid(), True, False)
    assert gateway["resident_bytes"] > 0
    shown = vitrine("status", "--home", home.path).out
    assert "ended" in shown
    assert "not serving" in shown


def test_a_second_build_is_refused(vitrine, home, bundle):
    with only_one(home.path / "build.lock", "taken"):
        ran = vitrine("build", "--bundle", bundle, "--home", home.path)
    assert ran.status == 1
    assert ran.err.startswith(f"error: another build is running in {home.path}; wait for it")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--items", "nothing.jsonl"], "there is no file nothing.jsonl"),
        (["--queries", "nothing.txt"], "there is no file nothing.txt; --queries names a text file"),
        ([], "is no encoder bundle"),
    ],
)
def test_a_build_names_what_is_missing(vitrine, home, tmp_path, options, words):
    ran = vitrine("build", *options, "--bundle", tmp_path / "none", "--home", home.path)
    assert ran.status == 1
    assert words in ran.err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--m", "3"], "Invalid value for '--m'"),
        (["--ef-construction", "4097"], "Invalid value for '--ef-construction'"),
        (["--code-dim", "0"], "Invalid value for '--code-dim'"),
        (["--required-recall", "1.5"], "Invalid value for '--required-recall'"),
        (["--tune", "--m", "16"], "--tune finds --m and --code-dim itself"),
        (["--tune", "--code-dim", "16"], "--tune finds --m and --code-dim itself"),
        (["--code-dim", "385"], "--code-dim is 385; the encoder makes vectors of 384 dimensions"),
    ],
)
def test_index_options_are_refused_before_anything_starts(vitrine, home, tmp_path, options, words):
    bundle = write_bundle(tmp_path / "bundle", dim=384)
    ran = vitrine("build", "--bundle", bundle, *options, "--home", home.path)
    assert ran.status != 0
    assert words in ran.err
    assert not home.bundles.exists(), "not even the bundle is copied"


def test_a_bundle_is_copied_whole_and_once(home, bundle):
    left_over = home.bundles / ".copying-half"
    left_over.mkdir(parents=True)
    assert copy_bundle(home, bundle) == ENCODER_ID
    assert [folder.name for folder in home.bundles.iterdir()] == [ENCODER_ID]
    (bundle / "model.onnx").write_bytes(b"other")
    copy_bundle(home, bundle)
    assert (home.bundles / ENCODER_ID / "model.onnx").read_bytes() == b"weights"


def test_what_was_recorded_of_a_bundle_later_reaches_its_copy(home, bundle):
    copy_bundle(home, bundle)
    described = orjson.loads((bundle / "encoder.json").read_bytes())
    grown = described | {"compatible_query_encoders": [{"encoder_id": "student"}]}
    (bundle / "encoder.json").write_bytes(orjson.dumps(grown))
    copy_bundle(home, bundle)
    assert orjson.loads((home.bundles / ENCODER_ID / "encoder.json").read_bytes()) == grown


@pytest.mark.parametrize("encoder_id", ["", "../../etc", "AB" * 12, 7])
def test_a_bundle_with_a_strange_id_is_refused(home, bundle, encoder_id):
    described = orjson.loads((bundle / "encoder.json").read_bytes())
    (bundle / "encoder.json").write_bytes(orjson.dumps(described | {"encoder_id": encoder_id}))
    with pytest.raises(CommandError, match="no valid encoder_id"):
        copy_bundle(home, bundle)


@pytest.mark.parametrize("damaged", [b"weigh", b"WEIGHTS", None], ids=["cut", "altered", "missing"])
def test_a_damaged_copy_of_a_bundle_is_mended(home, bundle, damaged):
    copy_bundle(home, bundle)
    model = home.bundles / ENCODER_ID / "model.onnx"
    model.unlink()
    if damaged is not None:
        model.write_bytes(damaged)
    copy_bundle(home, bundle)
    assert contents(home.bundles / ENCODER_ID) == contents(bundle)
    assert [folder.name for folder in home.bundles.iterdir()] == [ENCODER_ID]


def test_another_export_under_the_same_id_replaces_all_files(home, bundle, tmp_path):
    other = write_bundle(tmp_path / "other", references=b"others")
    copy_bundle(home, bundle)
    copy_bundle(home, other)
    assert contents(home.bundles / ENCODER_ID) == contents(other)
    assert [folder.name for folder in home.bundles.iterdir()] == [ENCODER_ID]


@pytest.mark.parametrize(
    ("damaged", "words"),
    [
        (b"weigh", "model.onnx has 5 bytes, 7 are recorded"),
        (b"WEIGHTS", "model.onnx has another SHA-256 than is recorded"),
        (None, "model.onnx is missing"),
    ],
    ids=["cut", "altered", "missing"],
)
def test_a_damaged_bundle_is_refused_and_the_copy_before_it_stays(
    home, bundle, tmp_path, damaged, words
):
    other = write_bundle(tmp_path / "other", references=b"others")
    (other / "model.onnx").unlink()
    if damaged is not None:
        (other / "model.onnx").write_bytes(damaged)
    with pytest.raises(CommandError, match=f"the bundle {other} is damaged: {words}"):
        copy_bundle(home, other)
    assert list(home.bundles.iterdir()) == []
    copy_bundle(home, bundle)
    with pytest.raises(CommandError, match=words):
        copy_bundle(home, other)
    assert contents(home.bundles / ENCODER_ID) == contents(bundle)
    assert [folder.name for folder in home.bundles.iterdir()] == [ENCODER_ID]


@pytest.mark.parametrize("described", [[], {}, {"files": None}, {"files": {"model.onnx": 7}}])
def test_a_bundle_that_does_not_record_its_files_is_refused(home, bundle, described):
    if isinstance(described, dict):
        described = {"encoder_id": ENCODER_ID, **described}
    (bundle / "encoder.json").write_bytes(orjson.dumps(described))
    with pytest.raises(CommandError, match=r"encoder\.json cannot be understood"):
        copy_bundle(home, bundle)


@pytest.mark.parametrize("step", ["copytree", "rename", "second rename", "rmtree"])
def test_a_kill_while_a_bundle_is_replaced_costs_no_copy(home, bundle, tmp_path, step):
    third_id = "cd" * 12
    other = write_bundle(tmp_path / "other", references=b"others")
    copy_bundle(home, bundle)
    with pytest.MonkeyPatch.context() as patched:
        kill_at(step, patched)
        with pytest.raises(Killed):
            copy_bundle(home, other)
    copy_bundle(home, write_bundle(tmp_path / "third", third_id))
    assert {folder.name for folder in home.bundles.iterdir()} == {ENCODER_ID, third_id}
    assert contents(home.bundles / ENCODER_ID) in (contents(bundle), contents(other))
    copy_bundle(home, other)
    assert contents(home.bundles / ENCODER_ID) == contents(other)


class Killed(BaseException):
    """Stands for SIGKILL: nothing may tidy up after it."""


def kill_at(step: str, patched: pytest.MonkeyPatch) -> None:
    """Let a step of copying end the process instead."""
    renames_left = 1 if step == "second rename" else 0
    rename = Path.rename

    def kill(*_arguments: object, **_options: object) -> None:
        raise Killed

    def rename_or_kill(path: Path, to: Path) -> None:
        nonlocal renames_left
        if not renames_left:
            raise Killed
        renames_left -= 1
        rename(path, to)

    if step in ("copytree", "rmtree"):
        patched.setattr(shutil, step, kill)
    else:
        patched.setattr(Path, "rename", rename_or_kill)


def test_generations_are_promoted_and_rolled_back_offline(vitrine, home):
    for generation in (1, 2):
        write_generation(home, generation)
        promoted = vitrine("generation", "promote", generation, "--home", home.path)
        assert promoted.status == 0
    assert promoted.out == "generation 2 is promoted (before: 1); the next `vitrine up` serves it\n"
    back = vitrine("generation", "rollback", "--home", home.path)
    assert back.out == "generation 1 is promoted (before: 2); the next `vitrine up` serves it\n"
    unknown = vitrine("generation", "promote", 9, "--home", home.path)
    assert (unknown.status, unknown.err) == (1, "error: no such generation: 9\n")


def test_doctor_looks_at_everything_and_says_what_a_taken_port_means(vitrine, home, taken_port):
    ran = vitrine("doctor", "--home", home.path, "--port", taken_port, "--json")
    assert ran.status == 0
    findings = {finding["name"]: finding for finding in ran.document}
    assert {"python", "grpcio", "extra [encoder]", "cores", "cpu flags", "memory", "disk"} <= set(
        findings
    )
    assert findings[f"port {taken_port}"]["verdict"] == "warning"
    assert "--port" in findings[f"port {taken_port}"]["meaning"]
    assert "cpu flags" in vitrine("doctor", "--home", home.path).out


def test_resharding_makes_a_new_generation_and_says_what_it_is(vitrine, tmp_path):
    rng = np.random.default_rng(0)
    catalogue = Catalogue(random_units(rng, 300), random_units(rng, 8))
    home = tmp_path / "home"
    build_index(catalogue, home, num_shards=2)
    ran = vitrine("reshard", "--shards", "3", "--home", str(home), "--generation", "1", "--json")
    assert ran.status == 0, ran.err
    figures = ran.document["generation"], ran.document["shards"], ran.document["items"]
    assert figures == (2, 3, 300)
    same = vitrine("reshard", "--shards", "2", "--home", str(home), "--generation", "1")
    assert same.status == 1
    assert "generation 1 has 2 shards already" in same.err


def test_resharding_without_a_promoted_generation_asks_for_one(vitrine, tmp_path):
    ran = vitrine("reshard", "--shards", "3", "--home", str(tmp_path))
    assert ran.status == 1
    assert "no generation is promoted" in ran.err


@pytest.mark.parametrize("command", [["generation", "list"], ["reshard", "--shards", "3"]])
def test_a_home_that_is_not_there_is_told_and_not_made(vitrine, home, command):
    ran = vitrine(*command, "--home", home.path)
    assert ran.status == 1
    assert f"there is no home {home.path}" in ran.err
    assert not home.path.exists()


def test_a_home_without_generations_says_what_makes_one(vitrine, home):
    home.path.mkdir()
    ran = vitrine("generation", "list", "--home", home.path)
    assert (ran.status, ran.err) == (0, "")
    assert "no generation is built in" in ran.out


@pytest.mark.parametrize(
    ("command", "option"),
    [(["promote", "1"], "--force-reason"), (["rollback"], "--reason")],
)
def test_a_reason_that_is_no_text_changes_nothing(vitrine, home, command, option):
    write_generation(home, 1)
    ran = vitrine("generation", *command, option, "\udcff", "--home", home.path)
    assert ran.status == 1
    assert ran.err == f"error: {option} is not valid UTF-8\n"
    assert not (home.generations / "active.json").exists()


@pytest.mark.parametrize("port", ["99999", "-1"])
def test_doctor_looks_at_ports_that_there_are(vitrine, port):
    ran = vitrine("doctor", "--port", port)
    assert ran.status != 0
    assert "Invalid value for '--port'" in ran.err
