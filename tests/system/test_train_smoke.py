"""`make train-smoke`, on fewer items: a newcomer's whole way from reviews to a report."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.timeout(900)  # a minute of work, on a machine that may be busy
def test_reviews_become_a_bundle_and_a_report(tmp_path):
    settings = [f"VENV={sys.prefix}", f"SMOKE_OUT={tmp_path}", "SMOKE_ITEMS=150"]
    # Everything is installed already: no stamp to wait for.
    made = subprocess.run(
        ["make", "--no-print-directory", "train-smoke", *settings, "DEMO_STAMP="],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stderr
    told = json.loads(made.stdout.splitlines()[-1])
    assert 0 < told["recall_at_10"]["smoke"] <= 1
    assert Path(told["report"]) == tmp_path / "report" / "report.md"
    assert "| smoke-bundle | " in Path(told["report"]).read_text()
    bundle = json.loads((tmp_path / "bundles" / "smoke" / "encoder.json").read_text())
    assert (bundle["kind"], bundle["dim"]) == ("bi_encoder", 384)
