"""The command line as scripts and people use it, against real processes."""

import shlex
import subprocess
import sys
from pathlib import Path

import orjson
import psutil
import pytest

from cli.search import SearchOptions, grpcurl_line
from tests.system.deployment import Deployment, copy_home
from tests.system.processes import vitrine
from tests.system.wire import run_grpcurl

SENTENCE_CHARS_MAX = 400


def refused(*arguments: object) -> str:
    """Run a command that must fail; return its sentence."""
    ran = vitrine(*arguments)
    assert ran.status == 1
    assert ran.out == ""
    assert len(ran.error) < SENTENCE_CHARS_MAX
    return ran.error


def test_the_installed_command_is_this_one(minilm_bundle):
    script = Path(sys.executable).with_name("vitrine")
    done = subprocess.run([script, "version"], capture_output=True, text=True, check=True)
    assert done.stdout == vitrine("version").out


def test_search_prints_the_response_as_json(deployment, sample_items):
    title = sample_items[3]["title"]
    found = vitrine("search", title, "--home", deployment.home, "--top-k", 2, "--json").document
    assert found["results"][0]["item_id"] == sample_items[3]["item_id"]
    assert len(found["results"]) == 2
    assert found["coverage"]["fraction"] == 1
    assert found["degraded"] == []


def test_search_prints_a_table_for_people(deployment, sample_items):
    ran = vitrine("search", sample_items[3]["title"], "--address", deployment.address)
    assert ran.status == 0
    assert sample_items[3]["item_id"] in ran.out
    assert "searched 1,500 of 1,500 items on 4 of 4 shards" in ran.out


def test_search_takes_filters_items_fields_and_a_profile(deployment, sample_items):
    options = ["--home", deployment.home, "--json", "--top-k", 1000]
    filter_ = 'gender = "Women" AND price < 40'
    found = vitrine("search", "dress", *options, "--filter", filter_, "--profile").document
    expected = sum(
        item["attributes"]["gender"] == "Women" and item["attributes"]["price"] < 40
        for item in sample_items
    )
    assert len(found["results"]) == expected == int(found["profile"]["items_matched"])

    liked, other = sample_items[0]["item_id"], sample_items[1]["item_id"]
    found = vitrine(
        "search", "--like", liked, "--unlike", other, *options, "--fields", "title"
    ).document
    assert not {liked, other} & {result["item_id"] for result in found["results"]}
    assert not any(result["item"]["attributes"] for result in found["results"])

    found = vitrine("search", "dress", *options, "--fields", "none", "--exact").document
    assert len(found["results"]) == 1000


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "nothing to search for"),
        ([""], "nothing to search for"),
        (["hat", "--like", "x"], "not both"),
        (["--like", "nobody"], "no such item: 'nobody'"),
        (["hat", "--filter", "price <"], "wrong at character"),
        (["hat", "--filter", 'brnad = "x"'], "allowed an attribute known: brand"),
        (["hat", "--top-k", "5000"], "top_k is 5000; allowed 1..1000"),
        (["hat", "--top-k", "-1"], "top_k is -1"),
        (["hat", "--fields", "price"], "allowed title"),
    ],
)
def test_a_bad_search_is_a_sentence(deployment, arguments, words):
    assert words in refused("search", *arguments, "--address", deployment.address)


def test_no_gateway_is_a_sentence_with_a_remedy():
    assert "start one with `vitrine up" in refused("search", "hat", "--address", "127.0.0.1:1")


def test_status_lists_every_process(deployment):
    status = vitrine("status", "--home", deployment.home, "--json").document
    assert (status["running"], status["generation"]) == (True, 1)
    roles = [(process["role"], process["shard"]) for process in status["processes"]]
    assert sorted(roles, key=str) == sorted(
        [("encoder", None), ("gateway", None), *(("shard", number) for number in range(4))],
        key=str,
    )
    for process in status["processes"]:
        assert psutil.pid_exists(process["pid"])
        assert process["alive"]
        assert process["serving"]
        assert process["address"].startswith("127.0.0.1:")
        assert process["generation"] == (None if process["role"] == "encoder" else 1)
        assert process["resident_bytes"] > 10_000_000
    table = vitrine("status", "--home", deployment.home).out
    assert "shard-3" in table
    assert deployment.address in table


def test_a_second_up_is_refused_and_the_first_goes_on(deployment):
    sentence = refused("up", "--home", deployment.home, "--port", 0, "--detach")
    assert "is up already" in sentence
    assert deployment.address in sentence
    assert deployment.search(text="hat").results


def test_generations_are_listed_inspected_and_verified(deployment):
    at = ("--home", deployment.home)
    listed = vitrine("generation", "list", *at, "--json").document
    assert (listed["active"], listed["previous"]) == (1, 0)
    assert [each["generation"] for each in listed["generations"]] == [1]
    inspected = vitrine("generation", "inspect", 1, *at, "--json").document
    assert (inspected["items"], inspected["num_shards"], inspected["num_buckets"]) == (
        1500,
        4,
        1024,
    )
    verified = vitrine("generation", "verify", *at, "--json").document
    assert verified["verified"] is True
    assert verified["bytes"] == listed["generations"][0]["bytes"]
    assert "promoted" in vitrine("generation", "list", *at).out


def test_generations_are_promoted_and_rolled_back_while_they_serve(movable: Deployment):
    at = ("--home", movable.home)
    assert "generation 3" in vitrine("generation", "promote", 3, *at).out
    assert movable.search(text="hat").generation == 3
    assert "generation 2" in vitrine("generation", "promote", 2, *at).out
    assert "generation 3" in vitrine("generation", "rollback", *at, "--reason", "a test").out
    assert movable.search(text="hat").generation == 3
    assert "no such generation" in refused("generation", "promote", 999, *at)


def test_bundles_are_inspected_and_verified(minilm_bundle):
    inspected = vitrine("bundle", "inspect", minilm_bundle, "--json").document
    assert inspected["name"] == "all-MiniLM-L6-v2"
    verified = vitrine("bundle", "verify", minilm_bundle, "--json").document
    assert verified["verified"] is True
    assert verified["encoder_id"] == inspected["encoder_id"]
    assert verified["reference_cosine_mean"] > 0.97


def test_what_is_no_bundle_is_a_sentence(tmp_path):
    for command in ("inspect", "verify"):
        ran = vitrine("bundle", command, tmp_path)
        assert ran.status == 1
        assert "error: " in ran.err
        assert "is missing" in ran.err


def test_the_doctor_looks_at_the_machine(deployment):
    port = deployment.gateway.port
    ran = vitrine("doctor", "--home", deployment.home, "--port", port, "--json")
    assert ran.status == 0
    findings = {row["name"]: row for row in ran.document}
    assert {"vitrine", "python", "cpu flags", "memory", "disk", "open files"} <= findings.keys()
    assert "the gateway of" in findings[f"port {port}"]["value"]
    other = vitrine("doctor", "--port", deployment.encoder.port, "--json").document
    (taken,) = (row for row in other if row["name"].startswith("port "))
    assert taken["verdict"] == "warning"


def test_down_stops_everything_and_can_be_asked_twice(built_home, tmp_path):
    cluster = Deployment(copy_home(built_home, tmp_path / "home"))
    ready = cluster.up()
    assert ready.out == f"ready: gateway {cluster.address}\n"
    assert vitrine("down", "--home", cluster.home).out == "stopped 6 processes\n"
    assert not any(process.running for process in cluster.processes.values())
    assert vitrine("down", "--home", cluster.home).out.startswith("nothing was running")
    assert vitrine("status", "--home", cluster.home, "--json").document["processes"] == []


def test_what_is_not_there_is_a_sentence(tmp_path):
    home = ("--home", tmp_path / "home")
    assert "no generation is promoted" in refused("up", *home, "--port", 0, "--detach")
    assert "no generation was promoted" in refused("generation", "rollback", *home)
    assert "no such generation" in refused("generation", "promote", 1, *home)
    bundle = ("--bundle", tmp_path / "bundle")
    assert "there is no file" in refused("build", "--items", "x.csv", *bundle, *home)
    items = tmp_path / "items.csv"
    items.write_text("item_id,title\n1,hat\n")
    assert "is no encoder bundle" in refused("build", "--items", items, *bundle, *home)


def test_the_demo_runs_once_from_start_to_end(minilm_bundle, built_home, sample_file, tmp_path):
    """With model, catalogue and vectors at hand, as after a first run that was interrupted."""
    home = tmp_path / "demo"
    (home / "sample" / "catalog").mkdir(parents=True)
    (home / "sample" / "minilm-int8").symlink_to(minilm_bundle)
    (home / "sample" / "catalog" / "items.jsonl.gz").symlink_to(sample_file)
    (home / "embeddings").symlink_to(built_home / "embeddings")
    ran = vitrine("demo", "--home", home, "--port", 0, "--once")
    assert ran.status == 0, ran.err
    assert "ready: gateway 127.0.0.1:" in ran.out
    assert ran.out.count("searched 1,500 of 1,500 items on 4 of 4 shards") == 4
    lines = [line for line in ran.out.splitlines() if line.startswith("grpcurl ")]
    assert len(lines) == 4
    assert sum('"items"' in line for line in lines) == 1, "one is a more-like-these"
    assert "where everything listens" in ran.out
    assert vitrine("status", "--home", home, "--json").document["running"] is False


def test_the_lines_that_the_demo_prints_repeat_its_searches(deployment):
    line = grpcurl_line(SearchOptions(text="it's a hat", top_k=3), deployment.address)
    words = shlex.split(line)
    assert words[0] == "grpcurl"
    answer = orjson.loads(run_grpcurl(*words[1:]).stdout)
    assert len(answer["results"]) == 3
