"""Tuning: which setup is chosen, what is written, what is kept of an interrupted one."""

import json

import numpy as np
import pytest

from index_service.build.gate import EF_SEARCH_GRID
from index_service.build.generation import BuildSettings, build_generation
from index_service.build.tune import M_TRIED, Curve, CurvePoint, Tuning, plot, tune
from index_service.build.work_folder import WorkFolder
from index_service.build.workers import Workers
from tests.index_service.catalogue import Catalogue, build, manifest_of
from tests.index_service.test_build import run_build
from tests.index_service.test_projection import DIM, flat_units


def curve(m, *points):
    return Curve(m, 32, 32 + 8 * m, tuple(CurvePoint(*point) for point in points))


def tuning(*curves, required=0.99):
    return Tuning("key", 100, required, curves)


SLOW = curve(16, (16, 0.9, 50.0), (32, 0.98, 100.0), (64, 1.0, 300.0))
FAST = curve(32, (16, 0.95, 80.0), (32, 0.99, 160.0), (64, 1.0, 320.0))
BLIND = curve(48, (16, 0.5, 10.0), (32, 0.6, 20.0))


def test_the_setup_that_takes_least_time_at_the_recall_is_chosen():
    # SLOW needs 200 us for 0.99, half way from 0.98 to 1.
    assert SLOW.p50_us_at(0.99) == 200.0
    assert tuning(SLOW, FAST, BLIND).chosen is FAST
    assert tuning(SLOW, FAST, BLIND, required=0.9).chosen is SLOW


def test_of_equally_fast_setups_the_smaller_is_chosen():
    twin = curve(24, *((p.ef_search, p.ann_recall_at_10, p.search_p50_us) for p in FAST.points))
    assert tuning(FAST, twin).chosen is twin


def test_where_none_reaches_the_recall_the_one_that_finds_most_is_chosen():
    assert tuning(BLIND, SLOW, required=1.1).chosen is SLOW


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    home = tmp_path_factory.mktemp("tuned")
    rng = np.random.default_rng(4)
    catalogue = Catalogue(flat_units(rng, 1200), flat_units(rng, 16))
    return home, catalogue, build(catalogue, home, num_shards=2, tune=True, ef_construction=40)


def test_a_tuned_build_uses_what_was_chosen_and_shows_the_curves(tuned):
    home, _, built = tuned
    folder = home / "generations" / "000001"
    document = json.loads((folder / "tuning.json").read_text())
    assert {(each["m"], each["code_dim"]) for each in document["curves"]} == {
        (m, code_dim) for m in M_TRIED for code_dim in (32, DIM)
    }
    assert document["chosen"] == {"m": built.m, "code_dim": built.code_dim}
    index = manifest_of(home).index
    assert (index.m, index.code_dim) == (built.m, built.code_dim)
    assert built.ann_recall_at_10 >= 0.99
    for each in document["curves"]:
        # Codes, twice m links of 4 bytes, and 12 to 30 bytes of levels, offsets and the projection.
        least = each["code_dim"] + 8 * each["m"]
        assert least + 12 <= each["graph_bytes_per_item"] <= least + 30
        assert len(each["points"]) == len(EF_SEARCH_GRID)
    assert not list((home / "work").glob(".tuning-*"))
    assert (folder / "tuning.png").read_bytes().startswith(b"\x89PNG")


class Recorder(Workers):
    """Works in this process, and tells how many tasks each run had."""

    def __init__(self):
        super().__init__(processes=1)
        self.runs = []

    def run(self, work, tasks, description, total):
        self.runs.append((work.__name__, len(tasks)))
        return super().run(work, tasks, description, total)


def test_setups_are_built_side_by_side_and_searched_by_one_process_alone(tmp_path):
    rng = np.random.default_rng(4)
    work = Catalogue(flat_units(rng, 300), flat_units(rng, 4)).write(tmp_path / "work")
    recorder = Recorder()
    found = tune(WorkFolder.open(work), recorder, 20, 1, 0.9)
    assert recorder.runs == [("build_setup", len(found.curves)), ("search_setups", 1)]


def test_the_plot_has_the_setups_that_reach_the_recall_by_time_and_size(tmp_path, monkeypatch):
    figure = pytest.importorskip("matplotlib.figure").Figure
    drawn = []
    monkeypatch.setattr(
        figure, "savefig", lambda self, path, **_: drawn.append(self) or path.touch()
    )
    assert plot(tuning(SLOW, FAST, BLIND), tmp_path / "tuning.png")
    times, sizes = drawn[0].axes
    assert [line.get_label() for line in times.lines[:3]] == [
        "m 16, 32 dimensions",
        "m 32, 32 dimensions",
        "m 48, 32 dimensions",
    ]
    points = [tuple(points.get_offsets()[0].tolist()) for points in sizes.collections]
    assert points == [(200.0, 32 + 8 * 16), (160.0, 32 + 8 * 32)]


def test_what_was_tried_is_not_tried_again(tuned, monkeypatch):
    home, _, built = tuned
    monkeypatch.setattr("index_service.build.tune.build_setup", None)
    settings = BuildSettings(num_shards=1, tune=True, ef_construction=40)
    again = build_generation(home / "work", home / "generations", settings)
    assert (again.m, again.code_dim) == (built.m, built.code_dim)


def test_tuning_with_a_given_m_is_refused(tuned):
    home, _, _ = tuned
    process = run_build(home, "--shards", "1", "--tune", "--m", "16")
    _, error = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "--tune finds --m and --code-dim itself" in error


def test_no_items_need_no_tuning(tmp_path):
    empty = np.zeros((0, DIM), dtype=np.float32)
    assert build(Catalogue(empty, empty), tmp_path, tune=True).items == 0
