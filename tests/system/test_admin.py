"""Looking at a cluster and moving it between generations, over the wire."""

from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest

from protos.vitrine.v1 import admin_pb2
from tests.system.deployment import Deployment, add_copy_of_generation
from tests.system.wire import SEARCH, Failure, grpcurl

ADMIN = "vitrine.v1.AdminService"


@pytest.fixture
def cluster(movable: Deployment):
    """The cluster, back on generation 1, with no other promoted since."""
    movable.stubs().admin.PromoteGeneration(
        admin_pb2.PromoteGenerationRequest(generation=1), timeout=30
    )
    return movable


def admin(deployment: Deployment, method: str, **request: Any) -> dict[str, Any]:
    return grpcurl(deployment.address, f"{ADMIN}/{method}", request).message


def refusal(deployment: Deployment, method: str, **request: Any) -> Failure:
    return grpcurl(deployment.address, f"{ADMIN}/{method}", request).refusal


def searched_generation(deployment: Deployment) -> int:
    return int(deployment.search(text="wool coat", top_k=1).generation)


def active(deployment: Deployment) -> dict[str, Any]:
    return orjson.loads((deployment.home / "generations" / "active.json").read_bytes())


def damage(deployment: Deployment, copy: int, **changes: Any) -> None:
    """Publish generation 1 again with another manifest."""
    folder = add_copy_of_generation(deployment.home, 1, copy)
    manifest = orjson.loads((folder / "manifest.json").read_bytes())
    (folder / "manifest.json").write_bytes(orjson.dumps(manifest | changes))


def test_the_cluster_is_described(deployment):
    described = admin(deployment, "DescribeCluster")
    assert (described["generation"], described["previous_generation"]) == ("1", "0")
    assert described["encoder"]["reachable"] is True
    assert described["encoder"]["target"] == deployment.encoder.address
    assert described["encoder"]["name"] == "all-MiniLM-L6-v2"
    assert [shard["target"] for shard in described["shards"]] == [
        deployment.shard(number).address for number in range(4)
    ]
    for number, shard in enumerate(described["shards"]):
        assert (shard["shard"], shard["reachable"], shard["detail"]) == (number, True, "")
        assert int(shard["resident_bytes"]) > 10_000_000
        (loaded,) = shard["generations"]
        assert loaded["state"] == "GENERATION_STATE_READY"
        assert (loaded["num_shards"], loaded["items_total"], loaded["dim"]) == (4, "1500", 384)
        assert loaded["encoder_id"] == described["encoder"]["encoder_id"]
        assert loaded["gate"]["ann_recall_at_10"] >= loaded["gate"]["required_ann_recall_at_10"]
        kinds = {each["name"]: each["type"] for each in loaded["attributes"]}
        assert kinds["price"] == "ATTRIBUTE_TYPE_NUMBER"
        assert kinds["listed"] == "ATTRIBUTE_TYPE_TIME"
        assert kinds["occasions"] == "ATTRIBUTE_TYPE_KEYWORD_LIST"
    assert described["catalog"] == {
        "kind": "sqlite", "reachable": True, "items": "1500", "seq": "1500", "detail": "",
    }  # fmt: skip
    assert described["version"]


def test_without_a_promotion_before_there_is_no_way_back(deployment):
    failure = refusal(deployment, "RollbackGeneration")
    assert (failure.code, failure.reason) == ("FAILED_PRECONDITION", "NO_PREVIOUS_GENERATION")
    assert searched_generation(deployment) == 1


def test_loading_makes_every_shard_hold_it_and_moves_no_search(cluster):
    loaded = admin(cluster, "LoadGeneration", generation=2)["loaded"]
    assert [(entry["generation"], entry["state"]) for entry in loaded] == [
        ("2", "GENERATION_STATE_READY")
    ] * 4
    assert sum(int(entry["items"]) for entry in loaded) == 1500
    assert searched_generation(cluster) == 1
    assert active(cluster)["generation"] == 1


def test_promotion_and_rollback_move_all_searches(cluster):
    promoted = admin(cluster, "PromoteGeneration", generation=2)
    assert (promoted["generation"], promoted["previous_generation"]) == ("2", "1")
    at = datetime.fromisoformat(promoted["promoted_at"])
    assert abs(datetime.now(UTC) - at) < timedelta(minutes=5)
    assert searched_generation(cluster) == 2
    assert (active(cluster)["generation"], active(cluster)["previous"]) == (2, 1)

    back = admin(cluster, "RollbackGeneration", reason="worse answers")
    assert (back["generation"], back["previous_generation"]) == ("1", "2")
    assert searched_generation(cluster) == 1
    entry = active(cluster)["history"][-1]
    assert (entry["action"], entry["reason"]) == ("rollback", "worse answers")


def test_both_generations_can_be_searched_while_the_older_one_is_kept(cluster):
    admin(cluster, "PromoteGeneration", generation=2)
    assert cluster.search(text="wool coat", generation=1).generation == 1
    assert cluster.search(text="wool coat").generation == 2


def test_a_generation_before_the_previous_one_is_let_go(cluster):
    admin(cluster, "PromoteGeneration", generation=2)
    admin(cluster, "PromoteGeneration", generation=3)
    failure = grpcurl(cluster.address, SEARCH, {"text": "wool coat", "generation": 1}).refusal
    assert (failure.code, failure.reason) == ("FAILED_PRECONDITION", "GENERATION_RETIRED")
    assert failure.detail("ErrorInfo")["metadata"] == {"expected": "3", "got": "1"}
    assert cluster.search(text="wool coat", generation=2).generation == 2


def test_a_page_token_ends_with_its_generation(cluster):
    request = {"text": "wool coat", "top_k": 5}
    token = grpcurl(cluster.address, SEARCH, request).message["next_page_token"]
    admin(cluster, "PromoteGeneration", generation=2)
    failure = grpcurl(cluster.address, SEARCH, {**request, "page_token": token}).refusal
    assert failure.code == "FAILED_PRECONDITION"
    assert failure.reason == "PAGE_TOKEN_OF_ANOTHER_GENERATION"
    assert failure.detail("ErrorInfo")["metadata"] == {"expected": "2", "got": "1"}


def test_promoting_what_is_promoted_changes_nothing(cluster):
    before = active(cluster)
    assert admin(cluster, "PromoteGeneration", generation=1)["generation"] == "1"
    assert active(cluster) == before


@pytest.mark.parametrize("method", ["LoadGeneration", "PromoteGeneration"])
def test_an_unknown_generation_is_not_found(cluster, method):
    failure = refusal(cluster, method, generation=999)
    assert failure.code == "NOT_FOUND"
    assert failure.detail("ResourceInfo")["resource_type"] == "generation"
    assert searched_generation(cluster) == 1


@pytest.mark.parametrize(
    ("method", "request_", "field"),
    [
        ("LoadGeneration", {}, "generation"),
        ("PromoteGeneration", {}, "generation"),
        ("PromoteGeneration", {"generation": 2, "force_reason": "x" * 1001}, "force_reason"),
        ("RollbackGeneration", {"reason": "x" * 1001}, "reason"),
    ],
)
def test_a_bad_field_is_named(cluster, method, request_, field):
    failure = refusal(cluster, method, **request_)
    assert (failure.code, failure.field) == ("INVALID_ARGUMENT", field)


def test_below_its_gate_a_generation_is_promoted_only_with_a_reason(cluster):
    manifest = orjson.loads((cluster.generation_folder() / "manifest.json").read_bytes())
    gate = {**manifest["gate"], "ann_recall_at_10": 0.5}
    damage(cluster, 11, gate=gate)
    failure = refusal(cluster, "PromoteGeneration", generation=11)
    assert (failure.code, failure.reason) == ("FAILED_PRECONDITION", "BELOW_GATE")
    assert failure.detail("ErrorInfo")["metadata"] == {"expected": "0.99", "got": "0.5"}
    assert searched_generation(cluster) == 1

    admin(cluster, "PromoteGeneration", generation=11, force_reason="the other one is worse")
    assert searched_generation(cluster) == 11
    assert active(cluster)["history"][-1]["reason"] == "the other one is worse"


def test_a_generation_of_another_encoder_is_refused(cluster):
    manifest = orjson.loads((cluster.generation_folder() / "manifest.json").read_bytes())
    damage(cluster, 12, encoder={**manifest["encoder"], "encoder_id": "ab" * 12})
    failure = refusal(cluster, "PromoteGeneration", generation=12)
    assert (failure.code, failure.reason) == ("FAILED_PRECONDITION", "ENCODER_MISMATCH")
    assert failure.detail("ErrorInfo")["metadata"]["expected"] == "ab" * 12
    assert searched_generation(cluster) == 1
    assert active(cluster)["generation"] == 1


def test_a_generation_of_another_number_of_shards_is_refused(cluster):
    folder = add_copy_of_generation(cluster.home, 1, 13)
    (folder / "shard-0003").rename(folder / "shard-0004")
    add_copy_of_generation(cluster.home, 1, 14)
    (cluster.generation_folder(14) / "shard-0003").rename(folder / "shard-0003")
    manifest = orjson.loads((folder / "manifest.json").read_bytes())
    fifth = {**manifest["shards"][3], "shard": 4}
    changes = {
        "num_shards": 5,
        "items": manifest["items"] + fifth["items"],
        "shards": [*manifest["shards"], fifth],
    }
    (folder / "manifest.json").write_bytes(orjson.dumps(manifest | changes))
    failure = refusal(cluster, "PromoteGeneration", generation=13)
    assert (failure.code, failure.reason) == ("FAILED_PRECONDITION", "SHARD_COUNT_MISMATCH")
    assert failure.detail("ErrorInfo")["metadata"] == {"expected": "4", "got": "5"}
    assert searched_generation(cluster) == 1
