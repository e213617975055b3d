"""An alert on a name that nobody exports never fires: names are held to the code."""

import re

import grpc
import yaml

from encoder_service.metrics import EncoderMetrics
from gateway.fanout import ShardState
from gateway.metrics import GatewayMetrics
from index_service.metrics import IndexMetrics
from index_service.sampling import Sampled
from protos.vitrine.v1 import search_pb2
from rpc.telemetry import RpcMetrics
from tests.deploy.readers import DEPLOY, default_ports

PROMETHEUS = DEPLOY / "prometheus"
SUFFIXES = {
    "counter": ("_total",),
    "histogram": ("_bucket", "_count", "_sum"),
    "gauge": ("",),
    "info": ("_info",),
}


def read(name):
    return yaml.safe_load((PROMETHEUS / name).read_text())


def rules():
    return [rule for group in read("rules.yml")["groups"] for rule in group["rules"]]


def expressions():
    return [rule["expr"] for rule in rules()]


def exported_families():
    """Return the metrics of each service; each has what all services have."""
    encoder = RpcMetrics("encoder", "test")
    EncoderMetrics(encoder)
    services = (GatewayMetrics("test"), IndexMetrics("shard-0", "test"), encoder)
    return [family for service in services for family in service.registry.collect()]


def exported_names():
    return {
        family.name + suffix
        for family in exported_families()
        for suffix in SUFFIXES.get(family.type, ())
    }


def label_values(label):
    found = re.findall(rf'{label}!?=~?"([^"]+)"', " ".join(expressions()))
    return {value for pattern in found for value in pattern.split("|")}


def test_every_metric_in_the_rules_is_exported():
    names = set(re.findall(r"\bvitrine_\w+", " ".join(expressions())))
    assert len(names) >= 4
    assert names <= exported_names()


def test_every_metric_that_a_rule_points_to_is_exported():
    texts = (PROMETHEUS / "rules.yml").read_text()
    families = {family.name for family in exported_families()}
    assert set(re.findall(r"\bvitrine_\w+", texts)) <= exported_names() | families


def test_an_encoder_that_serves_what_failed_its_check_raises_an_alert():
    [alert] = [rule for rule in rules() if "reference_check_overridden" in rule["expr"]]
    assert alert["alert"] == "VitrineReferenceCheckOverridden"
    assert alert["expr"].endswith("(vitrine_encoder_reference_check_overridden) > 0")


def test_partial_answers_are_told_by_their_share_of_a_shards_outcomes():
    [alert] = [rule for rule in rules() if rule.get("alert") == "VitrinePartialAnswers"]
    counter = "vitrine_search_shard_outcomes_total"
    partial, answers = (
        f"sum by (shard) (rate({counter}{states}[5m]))" for states in ('{state!="OK"}', "")
    )
    assert alert["expr"] == f"{partial} / {answers} > 0.01"


def test_every_status_code_in_the_rules_exists():
    assert label_values("code") <= {code.name for code in grpc.StatusCode}


def test_every_shard_state_in_the_rules_exists():
    assert label_values("state") == {ShardState.OK.value}


def test_every_method_in_the_rules_exists():
    service = search_pb2.DESCRIPTOR.services_by_name["SearchService"]
    methods = [f"/{service.full_name}/{method.name}" for method in service.methods]
    patterns = label_values("method")
    assert patterns
    assert all(any(re.fullmatch(pattern, method) for method in methods) for pattern in patterns)


def test_compose_scrapes_every_service_at_its_http_port(compose):
    for job in read("prometheus.yml")["scrape_configs"]:
        (found,) = job["dns_sd_configs"]
        role = {"shard": "index"}.get(*[job["job_name"].removeprefix("vitrine-")] * 2)
        assert found["port"] == default_ports(role)[1]
        assert set(found["names"]) <= set(compose["services"])


def test_compose_scrapes_every_shard(compose):
    names = [
        name
        for job in read("prometheus.yml")["scrape_configs"]
        for name in job["dns_sd_configs"][0]["names"]
    ]
    ours = ("encoder", "gateway", "shard-")
    assert sorted(names) == sorted(name for name in compose["services"] if name.startswith(ours))


def test_every_recorded_name_is_used_and_every_name_used_is_recorded_before():
    recorded = set()
    for rule in rules():
        used = set(re.findall(r"\bvitrine:[\w:]+", rule["expr"]))
        assert used <= recorded
        recorded |= {rule["record"]} if "record" in rule else set()
    assert recorded == {"vitrine:ann_recall_at_10:1h"}
    assert set(re.findall(r"\bvitrine:[\w:]+", " ".join(expressions()))) == recorded


def test_recall_is_recorded_by_shard_and_by_the_band_that_is_exported():
    [rule] = [rule for rule in rules() if "record" in rule]
    assert set(re.findall(r"by \(([^)]*)\)", rule["expr"])) == {"shard, selectivity"}
    metrics = IndexMetrics("shard-0", "test")
    metrics.count_sampled(Sampled("none", 9, 10))
    for name in re.findall(r"\bvitrine_\w+", rule["expr"]):
        assert metrics.registry.get_sample_value(name, {"selectivity": "none"})


def test_every_alert_says_what_to_do():
    for rule in rules():
        if "alert" in rule:
            assert rule["annotations"]["summary"]
            assert rule["annotations"]["action"]
