"""Generations as files: promoted and rolled back while nothing runs."""

import pytest

from cli.offline import promote, promoted, read_manifest, rollback
from rpc.active import read_active
from rpc.errors import FailedPrecondition, NotFound
from rpc.terminal import CommandError
from tests.cli.conftest import write_generation


def test_a_promoted_generation_is_found_again(home):
    write_generation(home, 1)
    promote(home, 1, "")
    assert promoted(home).generation == 1
    assert promoted(home).num_shards == 2


def test_a_generation_below_its_gate_is_refused_unless_forced_with_a_reason(home):
    write_generation(home, 1, recall=0.95)
    with pytest.raises(FailedPrecondition, match=r"0\.9500, below the required 0\.9900"):
        promote(home, 1, "")
    assert read_active(str(home.generations)).generation == 0
    promote(home, 1, "only a test catalogue")
    assert read_active(str(home.generations)).history[-1].reason == "only a test catalogue"


def test_a_rollback_goes_back_and_can_be_undone(home):
    for generation in (1, 2):
        write_generation(home, generation)
        promote(home, generation, "")
    assert rollback(home, "worse").generation == 1
    assert rollback(home, "").generation == 2


def test_a_rollback_needs_a_generation_before(home):
    write_generation(home, 1)
    promote(home, 1, "")
    with pytest.raises(FailedPrecondition, match="no generation was promoted before"):
        rollback(home, "")


def test_unknown_generations_are_not_promoted(home):
    with pytest.raises(NotFound, match="no such generation: 7"):
        promote(home, 7, "")


@pytest.mark.parametrize("changes", [{"gate": {}}, {"encoder": "x"}, {"num_shards": None}])
def test_a_manifest_that_cannot_be_understood_is_a_sentence(home, changes):
    write_generation(home, 1, **changes)
    with pytest.raises(CommandError, match=r"cannot understand .*manifest\.json"):
        read_manifest(home, 1)


def test_a_promoted_generation_whose_files_are_gone_is_a_sentence(home):
    write_generation(home, 1)
    promote(home, 1, "")
    (home.generations / "000001" / "manifest.json").unlink()
    with pytest.raises(CommandError, match="its files are gone"):
        promoted(home)
