import numpy as np

from training.report import write_report
from training.results import PLOTTED, System
from training.significance import Interval, bootstrap_interval

RESULTS = {"data": "made-up", "split": "test", "masked": False, "measures": [PLOTTED]}


def a_system(recall=0.5, **options):
    """A system of one recall, and nothing else to tell unless it is given."""
    found = Interval(recall, recall - 0.1, recall + 0.1)
    given = {
        "note": "",
        "p50_ms": {},
        "query_ms": 1.0,
        "intervals": {PLOTTED: found},
        "p_values": {PLOTTED: 0.5},
    }
    return System(**{**given, "segments": {}, **options})


def written(out, systems, **results):
    """The report of systems by name; the first is the baseline."""
    given = {"queries": 50, "items": 100, **RESULTS, "baseline": next(iter(systems)), **results}
    write_report(out, given, systems)
    return (out / "report.md").read_text()


def test_a_mean_that_rounding_puts_outside_of_its_interval_is_drawn(tmp_path):
    values = np.array([0.2] * 23)
    found = bootstrap_interval(values, [str(place) for place in range(23)])
    assert found.mean > found.high
    written(tmp_path, {"a": a_system(intervals={PLOTTED: found})})
    assert (tmp_path / "systems.png").read_bytes().startswith(b"\x89PNG")


def test_a_bar_in_a_name_of_a_category_or_model_ends_no_cell(tmp_path):
    named = a_system(note="items by a|b", segments={"category": {"Home | Kitchen": (40, 0.5)}})
    report = written(tmp_path, {"a": named})
    assert r"| Home \| Kitchen | 40 | 0.500 |" in report
    assert r"items by a\|b |" in report
