"""Commands end with one sentence, never a traceback; results are one line of JSON."""

import errno
import json

import pytest
from pydantic_settings import SettingsConfigDict

from rpc.errors import NotFound
from rpc.settings import ServiceSettings, read_settings
from rpc.terminal import CommandError, errors_as_sentences, print_result, progress_bar


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (CommandError("no file x; name another"), "no file x; name another"),
        (NotFound("item", ["B1"]), "no such item: 'B1'"),
        (KeyboardInterrupt(), "interrupted; run the same command again to go on"),
        (
            OSError(errno.ENOSPC, "No space left on device", "/data/x"),
            "No space left on device: /data/x; make room, then run the same command again to go on",
        ),
        (OSError(errno.EACCES, "Permission denied", "/data/x"), "Permission denied: /data/x"),
    ],
)
def test_an_error_is_one_sentence_and_status_1(error, sentence, capsys):
    with pytest.raises(SystemExit) as ended, errors_as_sentences():
        raise error
    assert ended.value.code == 1
    assert capsys.readouterr() == ("", f"error: {sentence}\n")


def test_our_bugs_stay_loud():
    with pytest.raises(ZeroDivisionError), errors_as_sentences():
        _ = 1 / 0


def test_a_result_is_one_line_of_json(capsys):
    print_result({"items": 3, "seconds": 1.5})
    assert json.loads(capsys.readouterr().out) == {"items": 3, "seconds": 1.5}


def test_progress_leaves_stdout_alone(capsys):
    with progress_bar("embedding", total=2) as advance:
        advance(2)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "embedding" in captured.err


class Settings(ServiceSettings):
    """Settings with a prefix, as a service has them."""

    model_config = SettingsConfigDict(env_prefix="VITRINE_TEST_", cli_kebab_case=True)

    bundle: str


def test_settings_come_from_the_environment_and_flags_win(monkeypatch):
    monkeypatch.setenv("VITRINE_TEST_BUNDLE", "from-environment")
    monkeypatch.setenv("VITRINE_TEST_PORT", "7000")
    monkeypatch.setattr("sys.argv", ["service", "--port", "7001", "--drain-timeout-s", "3"])
    settings = read_settings(Settings)
    assert (settings.bundle, settings.port, settings.drain_timeout_s) == (
        "from-environment",
        7001,
        3,
    )


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("VITRINE_TEST_OTHER", "x", "VITRINE_TEST_BUNDLE"),
        ("VITRINE_TEST_PORT", "70000", "VITRINE_TEST_PORT"),
        ("VITRINE_TEST_LOG_LEVEL", "loud", "VITRINE_TEST_LOG_LEVEL"),
    ],
)
def test_bad_settings_are_named(monkeypatch, variable, value, words):
    monkeypatch.setattr("sys.argv", ["service"])
    monkeypatch.setenv(variable, value)
    with pytest.raises(CommandError, match=words):
        read_settings(Settings)
