"""An encoder that is gone, stands still, or is not the one that embedded the items."""

import time

import pytest

from protos.vitrine.v1 import search_pb2
from tests.system.deployment import copy_home
from tests.system.processes import vitrine
from tests.system.wire import failure_of


@pytest.fixture
def liked(sample_items):
    return search_pb2.ItemsQuery(positive=[sample_items[0]["item_id"]])


@pytest.fixture
def vector(cluster):
    return search_pb2.EmbeddingQuery(values=cluster.stored.vectors[0].tolist())


def test_without_an_encoder_only_texts_are_unavailable(cluster, liked, vector):
    cached = cluster.search(text="a text that was searched before")
    cluster.encoder.kill()
    started_s = time.monotonic()
    failure = failure_of(lambda: cluster.search(text="a text that nobody searched for"))
    assert (failure.code, failure.reason) == ("UNAVAILABLE", "ENCODER_DOWN")
    assert time.monotonic() - started_s < 5
    assert cluster.search(items=liked).results
    assert cluster.search(embedding=vector).results
    again = cluster.search(text="a text that was searched before")
    assert [hit.item_id for hit in again.results] == [hit.item_id for hit in cached.results]

    cluster.start_again("encoder")
    cluster.wait_until_whole()
    assert cluster.search(text="a text that nobody searched for").results


def test_an_encoder_that_stands_still_spends_its_share_of_the_deadline(cluster, liked):
    cluster.encoder.stop()
    started_s = time.monotonic()
    failure = failure_of(lambda: cluster.search(text="yet another new text", timeout_s=2.0))
    assert time.monotonic() - started_s < 2
    assert (failure.code, failure.reason) == ("DEADLINE_EXCEEDED", "DEADLINE_EXCEEDED")
    assert failure.detail("ErrorInfo")["metadata"] == {"stage": "embed"}
    assert cluster.search(items=liked).results
    cluster.encoder.go_on()
    cluster.wait_until_whole()


def test_a_bundle_of_another_encoder_does_not_come_up(built_home, other_bundle, tmp_path):
    home = copy_home(built_home, tmp_path / "home")
    started_s = time.monotonic()
    ran = vitrine("up", "--home", home, "--port", 0, "--detach", "--bundle", other_bundle)
    assert ran.status == 1
    assert "ready" not in ran.out
    assert "generation 1 was embedded by encoder" in ran.error
    assert time.monotonic() - started_s < 60
    assert vitrine("status", "--home", home, "--json").document["running"] is False


def test_an_encoder_that_is_replaced_by_another_is_never_searched_with(
    cluster, other_bundle, liked
):
    cluster.encoder.kill()
    cluster.start_again("encoder", BUNDLE=other_bundle)
    failure = failure_of(lambda: cluster.search(text="a text for the wrong encoder"))
    assert (failure.code, failure.reason) == ("FAILED_PRECONDITION", "ENCODER_MISMATCH")
    assert cluster.search(items=liked).results
    cluster.encoder.kill()
