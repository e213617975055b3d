"""Logs: structured lines that never get in the way of what they tell about."""

import io
import json
import sys
from pathlib import Path

import pytest
import structlog

from rpc.telemetry import configure_logging, get_logger, request_id

FULL = Path("/dev/full")


@pytest.fixture(autouse=True)
def logging_as_before():
    """Leave structlog as it was."""
    before = structlog.get_config()
    yield
    structlog.configure(**before)


def test_a_line_says_who_and_for_which_request(capsys):
    configure_logging("shard-0", "info", "json")
    token = request_id.set("abc")
    try:
        get_logger().info("loaded", generation=3)
    finally:
        request_id.reset(token)
    line = json.loads(capsys.readouterr().err)
    assert line["event"] == "loaded"
    assert (line["role"], line["request_id"], line["generation"]) == ("shard-0", "abc", 3)
    assert line["level"] == "info"


@pytest.mark.skipif(not FULL.exists(), reason="needs /dev/full, a disk that is always full")
def test_a_full_disk_under_the_log_breaks_no_call(monkeypatch):
    full = io.TextIOWrapper(io.FileIO(FULL, "w"), write_through=True)
    with pytest.raises(OSError, match="No space left"):
        full.write("a line")
    monkeypatch.setattr(sys, "stderr", full)
    configure_logging("shard-0", "info", "json")
    get_logger().info("loaded")
    get_logger().error("not loaded")


def test_a_log_that_nobody_reads_any_more_breaks_no_call(monkeypatch, tmp_path):
    closed = (tmp_path / "log").open("w")
    closed.close()
    monkeypatch.setattr(sys, "stderr", closed)
    configure_logging("shard-0", "info", "json")
    get_logger().info("loaded")
