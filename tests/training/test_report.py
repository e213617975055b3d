import numpy as np

from training.report import add_curves, write_report
from training.report_plots import dims_figure, ef_search_figure, latency_figure
from training.results import PLOTTED, System
from training.significance import Interval, bootstrap_interval

RESULTS = {
    "data": "made-up",
    "split": "test",
    "masked": False,
    "measures": [PLOTTED],
    "too_small": {},
}


def a_system(recall=0.5, **options):
    """A system of one recall, and nothing else to tell unless it is given."""
    found = {} if recall is None else {PLOTTED: Interval(recall, recall - 0.1, recall + 0.1)}
    given = {
        "note": "", "p50_ms": {}, "query_ms": 1.0, "encoder": "", "options": {},
        "ann_recall": None, "intervals": found, "p_values": {PLOTTED: 0.5}, "segments": {},
    }  # fmt: skip
    return System(**{**given, **options})


def through_graph(ef_search, recall, ann_recall, dim=384):
    """A system that searches through a graph."""
    options = {"dim": dim, "ef_search": ef_search}
    return a_system(recall, encoder="m@", options=options, ann_recall=ann_recall)


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


def points_of(figure, panel=0):
    """The points of each curve of a picture, by its name."""
    lines = figure.axes[panel].get_lines()
    return {line.get_label(): list(zip(*line.get_data(), strict=True)) for line in lines}


def test_one_system_is_a_bar_and_nothing_else(tmp_path):
    report = written(tmp_path, {"a": a_system()})
    assert [path.name for path in tmp_path.glob("*.png")] == ["systems.png"]
    assert "](systems.png)" in report
    assert "[cases.md](cases.md)" in report


def test_recall_is_drawn_over_the_time_of_a_query_in_all():
    systems = {"a": a_system(0.4, query_ms=2.0), "b": a_system(0.5, query_ms=90.0)}
    drawn = latency_figure({**systems, "few": a_system(None)})
    assert points_of(drawn) == {"a": [(2.0, 0.4)], "b": [(90.0, 0.5)]}
    assert latency_figure({"a": a_system(), "few": a_system(None)}) is None


def test_systems_that_differ_in_ef_search_alone_are_a_curve():
    systems = {
        "ours-hnsw-64": through_graph(64, 0.5, 0.99),
        "ours-hnsw-16": through_graph(16, 0.4, 0.9),
        "ours-hnsw-8": through_graph(8, None, None),
        "small-hnsw-16": through_graph(16, 0.3, 0.9, dim=128),
        "bm25": a_system(options={"k1": 1.2}),
    }
    drawn = ef_search_figure(systems)
    assert points_of(drawn) == {"ours-hnsw": [(16, 0.4), (64, 0.5)]}
    assert points_of(drawn, panel=1) == {"ours-hnsw": [(16, 0.9), (64, 0.99)]}
    assert (
        ef_search_figure({"a": through_graph(16, 0.3, 0.9), "b": through_graph(8, None, None)})
        is None
    )


def test_first_dimensions_are_a_curve_with_the_whole_vectors(tmp_path):
    systems = {
        name: a_system(recall, encoder="m@", options={"dim": dim})
        for name, dim, recall in (("ours", 384, 0.5), ("ours-128", 128, 0.4))
    }
    other = {"base": a_system(encoder="n@", options={"dim": 384})}
    assert points_of(dims_figure({**systems, **other})) == {"ours": [(128, 0.4), (384, 0.5)]}
    assert "](dims.png)" in written(tmp_path, systems)
    assert "](dims.png)" not in written(tmp_path, other)
    assert not (tmp_path / "dims.png").exists()


def test_without_any_recall_at_10_there_is_a_table_and_no_picture(tmp_path):
    report = written(tmp_path, {"a": through_graph(8, None, None)})
    assert "| a |  |" in report
    assert list(tmp_path.glob("*.png")) == []


def test_queries_of_segments_too_small_to_show_are_counted(tmp_path):
    shown = a_system(segments={"category": {"Baby": (40, 0.5)}, "review length": {}})
    too_small = {
        "category": {"segments": 3, "queries": 10},
        "review length": {"segments": 4, "queries": 50},
    }
    report = written(tmp_path, {"a": shown}, too_small=too_small)
    assert "| Baby | 40 | 0.500 |" in report
    assert "Not shown: 10 queries in 3 segments of fewer than 30." in report
    assert "Not shown: 50 queries in 4 segments of fewer than 30." in report
    assert "| review length |" not in report


def test_a_segment_of_all_queries_is_a_line_and_no_table(tmp_path):
    report = written(tmp_path, {"a": a_system(segments={"training": {"unseen items": (50, 0.5)}})})
    assert "## recall@10 by training\n\nAll 50 queries: unseen items.\n" in report
    assert "| training |" not in report


def test_curves_of_runs_stand_at_the_end_where_there_are_any(tmp_path):
    before = written(tmp_path, {"a": a_system()})
    add_curves(tmp_path, {"ours": tmp_path / "absent.png"})
    assert (tmp_path / "report.md").read_text() == before
    (tmp_path / "curves.png").write_bytes(b"png")
    add_curves(tmp_path, {"ours": tmp_path / "curves.png"})
    added = (tmp_path / "report.md").read_text().removeprefix(before)
    assert added == "## Training\n\n![Loss and dev of ours](curves-ours.png)\n"
    assert (tmp_path / "curves-ours.png").read_bytes() == b"png"
