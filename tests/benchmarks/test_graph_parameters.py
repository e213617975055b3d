"""Graphs of several parameters, built and searched."""

import numpy as np
import pytest

from benchmarks.graph_parameters import Candidate, Kind
from benchmarks.index import in_turns, known_truth
from index_service.build.projection import fit
from rpc.terminal import CommandError
from tests.index_service.catalogue import random_units


def test_kinds_are_told():
    assert Kind.parse("16:200") == Kind(16, 200, keeps_all_links=False)
    for text in ("16", "16:x", "16:200:some", ":200"):
        with pytest.raises(CommandError, match="is no graph"):
            Kind.parse(text)


def test_graphs_find_enough_and_say_what_they_read(tmp_path):
    rng = np.random.default_rng(0)
    halves = random_units(rng, 2_000).astype(np.float16)
    asked = random_units(rng, 20).astype(np.float32)
    truth = known_truth(halves, asked, tmp_path)
    kinds = [Kind.parse("8:40"), Kind.parse("16:80:all")]
    found = [Candidate(kind, halves, fit(halves), tmp_path) for kind in kinds]
    for each in found:
        each.calibrate(asked, truth, required=0.95)
        assert each.recall >= 0.95
        assert 10 < each.distances < 2_000
    again = Candidate(kinds[0], halves, fit(halves), tmp_path)
    assert again.build_cpu_s == found[0].build_cpu_s, "it was kept"
    seconds = in_turns([each.contender for each in found], asked)
    assert [len(times) for times in seconds.values()] == [20, 20]
