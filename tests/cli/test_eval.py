import json

import pytest

from cli.__main__ import main
from cli.evaluation import EvalOptions, evaluate
from cli.stages import StageFailed

TITLES = ("red boots", "blue scarf", "green kettle")


@pytest.fixture
def data(tmp_path):
    """A judged data set of three items, each asked for once."""
    folder = tmp_path / "data"
    (folder / "qrels").mkdir(parents=True)
    for name, key in (("corpus", "i"), ("queries", "q")):
        lines = [{"_id": f"{key}{n}", "title": t, "text": t} for n, t in enumerate(TITLES)]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (folder / f"{name}.jsonl").write_text(text)
    (folder / "qrels" / "test.tsv").write_text("".join(f"q{n}\ti{n}\t1\n" for n in range(3)))
    return folder


def test_eval_takes_several_systems_and_prints_what_each_found(data, tmp_path, capfd):
    out = tmp_path / "out"
    command = ["eval", "--data", str(data), "--out", str(out), "--baseline", "flat", "--json"]
    with pytest.raises(SystemExit) as ended:
        main([*command, "--system", "bm25", "flat=bm25?b=0"])
    assert ended.value.code == 0
    found = json.loads(capfd.readouterr().out)
    assert found["recall_at_10"] == {"bm25": 1.0, "flat": 1.0}
    assert json.loads((out / "results.json").read_text())["baseline"] == "flat"
    assert (out / "runs" / "bm25.trec").is_file()


def test_eval_says_why_it_refuses(data, tmp_path, capfd):
    options = EvalOptions(data, ["bm25"], tmp_path, "test", "bert", False, tmp_path / "cache")
    with pytest.raises(StageFailed, match=r"training\.evaluate stopped for the reason above"):
        evaluate(options)
    assert capfd.readouterr().err.endswith("baseline is 'bert'; allowed bm25\n")
