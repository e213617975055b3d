"""What the manifests promise: who is reached by which name, and what may be taken away."""

import pytest

from protos.vitrine.v1 import encoder_pb2, index_pb2, search_pb2
from tests.deploy.readers import DEPLOY, default_ports, read_env_file, settings_class

ROLE_OF_COMPONENT = {"encoder": "encoder", "shard": "index", "gateway": "gateway"}
SERVED = {"encoder": encoder_pb2, "index": index_pb2, "gateway": search_pb2}
SETTINGS = DEPLOY / "kubernetes" / "base" / "settings"


def of_kind(resources, *kinds):
    return {r["metadata"]["name"]: r for r in resources if r["kind"] in kinds}


def workloads(resources):
    return of_kind(resources, "Deployment", "StatefulSet")


def role_of(workload):
    return ROLE_OF_COMPONENT[pod_labels(workload)["app.kubernetes.io/component"]]


def pod_labels(workload):
    return workload["spec"]["template"]["metadata"]["labels"]


def selected(selector, resources):
    """Return the names of the workloads whose pods a label selector picks."""
    return [
        name
        for name, workload in workloads(resources).items()
        if selector.items() <= pod_labels(workload).items()
    ]


def container_of(workload):
    (container,) = workload["spec"]["template"]["spec"]["containers"]
    return container


def test_every_disruption_budget_guards_exactly_one_workload(base):
    budgets = of_kind(base, "PodDisruptionBudget")
    assert budgets.keys() == workloads(base).keys()
    for name, budget in budgets.items():
        assert selected(budget["spec"]["selector"]["matchLabels"], base) == [name]


def test_every_service_picks_exactly_one_workload(base):
    for name, service in of_kind(base, "Service").items():
        expected = "vitrine-gateway" if name == "vitrine-admin" else name
        assert selected(service["spec"]["selector"], base) == [expected]


def test_every_workload_selects_its_own_pods_only(base):
    for name, workload in workloads(base).items():
        assert selected(workload["spec"]["selector"]["matchLabels"], base) == [name]
        (spread,) = workload["spec"]["template"]["spec"]["topologySpreadConstraints"]
        assert selected(spread["labelSelector"]["matchLabels"], base) == [name]


def test_gateways_reach_every_shard_by_its_headless_name_in_order(base):
    port, _ = default_ports("index")
    shards = sorted(of_kind(base, "StatefulSet"))
    targets = read_env_file(SETTINGS / "gateway.env")["VITRINE_GATEWAY_SHARDS"].split(",")
    assert targets == [f"{shard}:{port}" for shard in shards]
    for shard in shards:
        assert of_kind(base, "Service")[shard]["spec"]["clusterIP"] == "None"


def test_shards_are_reachable_before_they_are_ready_so_that_they_can_be_told_to_load(base):
    published = {
        name
        for name, service in of_kind(base, "Service").items()
        if service["spec"].get("publishNotReadyAddresses")
    }
    assert published == {*of_kind(base, "StatefulSet"), "vitrine-admin"}


def test_gateways_reach_encoders_by_a_headless_name(base):
    port, _ = default_ports("encoder")
    assert of_kind(base, "Service")["vitrine-encoder"]["spec"]["clusterIP"] == "None"
    target = read_env_file(SETTINGS / "gateway.env")["VITRINE_GATEWAY_ENCODER"]
    assert target == f"dns:///vitrine-encoder:{port}"


def test_every_folder_of_a_pod_has_a_limit(base):
    for workload in workloads(base).values():
        volumes = workload["spec"]["template"]["spec"]["volumes"]
        assert all(each["emptyDir"].get("sizeLimit") for each in volumes if "emptyDir" in each)


def test_encoders_without_a_cpu_limit_spread_no_query_over_their_node(base):
    [encoder] = of_kind(base, "Deployment")["vitrine-encoder"]["spec"]["template"]["spec"][
        "containers"
    ]
    assert "cpu" not in encoder["resources"]["limits"]
    assert read_env_file(SETTINGS / "encoder.env")["VITRINE_ENCODER_LAYOUT"] == "throughput"


def test_every_shard_reads_its_number_from_its_own_label(base):
    for name, shard in of_kind(base, "StatefulSet").items():
        assert f"vitrine-shard-{pod_labels(shard)['vitrine/shard']}" == name
        (number,) = container_of(shard)["env"]
        assert number["name"] == "VITRINE_INDEX_SHARD"
        assert number["valueFrom"]["fieldRef"]["fieldPath"] == "metadata.labels['vitrine/shard']"


def test_the_build_job_cuts_as_many_shards_as_there_are(base, render):
    (job,) = render("build-job")
    arguments = container_of(job)["args"]
    shards = int(arguments[arguments.index("--shards") + 1])
    assert shards == len(of_kind(base, "StatefulSet"))


def test_containers_and_services_use_the_services_default_ports(base):
    for name, workload in workloads(base).items():
        grpc_port, http_port = default_ports(role_of(workload))
        ports = {port["name"]: port["containerPort"] for port in container_of(workload)["ports"]}
        assert ports == {"grpc": grpc_port, "http": http_port}
        assert of_kind(base, "Service")[name]["spec"]["ports"][0]["port"] == grpc_port
        annotations = workload["spec"]["template"]["metadata"]["annotations"]
        assert annotations["prometheus.io/port"] == str(http_port)


def test_readiness_is_health_and_liveness_is_not(base):
    for workload in workloads(base).values():
        container = container_of(workload)
        grpc_port, _ = default_ports(role_of(workload))
        assert container["readinessProbe"]["grpc"]["port"] == grpc_port
        for probe in ("startupProbe", "livenessProbe"):
            assert container[probe]["httpGet"] == {"path": "/metrics", "port": "http"}


def test_readiness_asks_about_a_service_that_the_server_has(base):
    for workload in workloads(base).values():
        name = container_of(workload)["readinessProbe"]["grpc"]["service"]
        served = SERVED[role_of(workload)].DESCRIPTOR.services_by_name.values()
        assert name in {service.full_name for service in served}


def test_pods_have_time_to_drain(base, settings_from):
    for workload in workloads(base).values():
        role = role_of(workload)
        given = read_env_file(SETTINGS / f"{role}.env")
        needed_s = sum(
            float(given[f"VITRINE_{role.upper()}_DRAIN_{part}_S"]) for part in ("DELAY", "TIMEOUT")
        )
        assert workload["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] > needed_s


@pytest.mark.parametrize("path", ["base", "overlays/local", "build-job"])
def test_containers_have_no_more_rights_than_they_need(path, render):
    for workload in of_kind(render(path), "Deployment", "StatefulSet", "Job").values():
        assert workload["spec"]["template"]["spec"]["securityContext"]["runAsNonRoot"] is True
        assert container_of(workload)["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }


def test_every_container_requests_cpu_and_memory_and_bounds_memory(base):
    for workload in workloads(base).values():
        resources = container_of(workload)["resources"]
        assert resources["requests"].keys() == {"cpu", "memory"}
        assert "memory" in resources["limits"]


def test_only_gateways_may_write_the_generations(base):
    writers = [
        name
        for name, workload in workloads(base).items()
        for mount in container_of(workload)["volumeMounts"]
        if mount["name"] == "data" and not mount.get("readOnly")
    ]
    assert writers == ["vitrine-gateway"]


def test_autoscalers_scale_deployments_that_name_no_number(base):
    for name, autoscaler in of_kind(base, "HorizontalPodAutoscaler").items():
        assert autoscaler["spec"]["scaleTargetRef"]["name"] == name
        assert "replicas" not in of_kind(base, "Deployment")[name]["spec"]


def test_settings_reach_the_pods_that_they_are_for(base):
    maps = of_kind(base, "ConfigMap")
    for workload in workloads(base).values():
        (source,) = container_of(workload)["envFrom"]
        prefix = settings_class(role_of(workload)).model_config["env_prefix"]
        given = maps[source["configMapRef"]["name"]]["data"]
        assert given
        assert all(name.startswith(prefix) for name in given)


def test_the_overlay_scales_one_shard_and_changes_nothing_else(base, render):
    scaled = render("overlays/scale-one-shard")
    differing = [
        (before, after) for before, after in zip(base, scaled, strict=True) if before != after
    ]
    ((before, after),) = differing
    assert (after["kind"], after["metadata"]["name"]) == ("StatefulSet", "vitrine-shard-2")
    assert (before["spec"].pop("replicas"), after["spec"].pop("replicas")) == (2, 3)
    assert before == after


def test_the_local_overlay_has_one_replica_of_everything(render):
    local = render("overlays/local")
    assert {shard["spec"]["replicas"] for shard in of_kind(local, "StatefulSet").values()} == {1}
    scalers = of_kind(local, "HorizontalPodAutoscaler").values()
    assert {scaler["spec"]["maxReplicas"] for scaler in scalers} == {1}
