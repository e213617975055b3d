"""Settings that could not work are refused at the start, by the name of their variable."""

import pytest

from gateway.settings import GatewaySettings
from rpc.settings import read_settings
from rpc.terminal import CommandError


@pytest.fixture
def told(monkeypatch):
    """Return what a gateway says of settings given as variables."""

    def read(**variables: str) -> str:
        given = {"ENCODER": "e:1", "SHARDS": "a:1", "CATALOG": "sqlite:///c", "GENERATIONS": "g"}
        for name, value in {**given, **variables}.items():
            monkeypatch.setenv(f"VITRINE_GATEWAY_{name}", value)
        try:
            read_settings(GatewaySettings, flags=False)
        except CommandError as exc:
            return str(exc)
        return ""

    return read


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("MAX_CONNECTION_AGE_S", "2200000", "less than or equal to 2000000"),
        ("MAX_CONNECTION_AGE_S", "nan", "finite"),
        ("MAX_CONNECTION_AGE_GRACE_S", "inf", "finite"),
        ("MAX_CONNECTION_AGE_GRACE_S", "14", "greater than or equal to 15"),
        ("MESSAGE_BYTES_MAX", "3000000000", "less than or equal to 2147483647"),
        ("DRAIN_DELAY_S", "inf", "finite"),
        ("DRAIN_DELAY_S", "3601", "less than or equal to 3600"),
        ("SEARCH_TIMEOUT_S", "inf", "finite"),
        ("ANNOUNCE_FILE", "/nowhere/at/all.json", "there is no folder /nowhere/at"),
        ("SHARDS", "foo", "'foo' is no host:port"),
        ("SHARDS", "foo:99999", "'foo:99999' is no host:port with a port of 1..65535"),
        ("SHARDS", "foo:0", "'foo:0' is no host:port"),
        ("SHARDS", "a:1,b:1|:1", "':1' is no host:port"),
        ("SHARDS", "::1:7702", "'::1:7702' is no host:port"),
        ("SHARDS", "a:1,,b:1", "an empty address between commas"),
    ],
)
def test_a_setting_that_cannot_work_is_named(told, name, value, words):
    sentence = told(**{name: value})
    assert f"VITRINE_GATEWAY_{name}: " in sentence
    assert words in sentence


@pytest.mark.parametrize("shards", ["a:1", "dns:///a_b.c-d:7702|10.0.0.1:1 , [::1]:65535"])
def test_addresses_of_shards_are_taken_in_every_form(told, shards):
    assert told(SHARDS=shards) == ""


def test_equal_ports_are_told_by_both_names(told):
    words = "VITRINE_GATEWAY_PORT and VITRINE_GATEWAY_HTTP_PORT are both 7000 "
    assert words in told(PORT="7000", HTTP_PORT="7000")
    assert told(PORT="0", HTTP_PORT="0") == ""
