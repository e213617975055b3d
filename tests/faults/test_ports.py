"""Ports that are taken, and settings that cannot be."""

import socket

import pytest

from tests.system.deployment import copy_home
from tests.system.processes import start_in_vain, vitrine


@pytest.fixture
def taken_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def test_up_on_a_port_in_use_says_so_and_leaves_nothing_running(built_home, tmp_path, taken_port):
    home = copy_home(built_home, tmp_path / "home")
    ran = vitrine("up", "--home", home, "--port", taken_port, "--detach")
    assert ran.status == 1
    assert f"cannot listen on 127.0.0.1:{taken_port}" in ran.error
    assert "--port" in ran.error
    assert vitrine("status", "--home", home, "--json").document["running"] is False


@pytest.mark.parametrize("which", ["PORT", "HTTP_PORT"])
@pytest.mark.parametrize("name", ["encoder", "shard-0", "gateway"])
def test_a_service_on_a_port_in_use_says_so(cluster, taken_port, tmp_path, name, which):
    settings = {**cluster.settings_of(name), which: taken_port}
    sentence = start_in_vain(name, settings, tmp_path)
    assert f"cannot listen on 127.0.0.1:{taken_port}" in sentence


@pytest.mark.parametrize(
    ("name", "wrong", "words"),
    [
        ("encoder", {"BUNDLE": "/nowhere"}, "no encoder bundle"),
        ("encoder", {"WORKERS": "many"}, "WORKERS"),
        ("shard-0", {"SHARD": "-1"}, "SHARD"),
        ("shard-0", {"SHARD": "9"}, "9"),
        ("gateway", {"SHARDS": "a:1,,b:2"}, "SHARDS"),
        ("gateway", {"CATALOG": "mysql://x"}, "mysql"),
    ],
)
def test_a_service_with_a_wrong_setting_says_which(cluster, tmp_path, name, wrong, words):
    sentence = start_in_vain(name, {**cluster.settings_of(name), **wrong}, tmp_path)
    assert words in sentence
