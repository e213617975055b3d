"""Compose wires services by name, port and number of shards; no engine is needed to see that."""

from tests.deploy.readers import ROLES, default_ports

GRACE_S = 30


def shards_of(compose):
    return sorted(name for name in compose["services"] if name.startswith("shard-"))


def test_the_gateway_calls_every_shard_in_order_at_its_port(compose):
    port, _ = default_ports("index")
    targets = compose["services"]["gateway"]["environment"]["VITRINE_GATEWAY_SHARDS"].split(",")
    assert targets == [f"{shard}:{port}" for shard in shards_of(compose)]


def test_every_shard_has_the_number_of_its_name(compose):
    for name in shards_of(compose):
        environment = compose["services"][name]["environment"]
        assert f"shard-{environment['VITRINE_INDEX_SHARD']}" == name


def test_the_builder_cuts_as_many_shards_as_there_are(compose):
    command = compose["services"]["build"]["command"]
    assert int(command[command.index("--shards") + 1]) == len(shards_of(compose))


def test_the_gateway_calls_the_encoder_at_its_port(compose):
    port, _ = default_ports("encoder")
    target = compose["services"]["gateway"]["environment"]["VITRINE_GATEWAY_ENCODER"]
    assert target == f"dns:///encoder:{port}"


def test_only_the_gateway_publishes_ports_and_only_on_this_machine(compose):
    services = {name: compose["services"][name] for name in ["encoder", *shards_of(compose)]}
    assert not any("ports" in service for service in services.values())
    grpc_port, http_port = default_ports("gateway")
    assert compose["services"]["gateway"]["ports"] == [
        f"127.0.0.1:{grpc_port}:{grpc_port}",
        f"127.0.0.1:{http_port}:{http_port}",
    ]


def test_a_stopped_service_has_time_to_drain(compose, settings_from):
    for name in ["encoder", *shards_of(compose), "gateway"]:
        service = compose["services"][name]
        role = "index" if name.startswith("shard") else name
        settings = settings_from(role, service["environment"])
        assert service["stop_grace_period"] == f"{GRACE_S}s"
        assert settings.drain_delay_s + settings.drain_timeout_s < GRACE_S


def test_services_are_built_from_their_own_dockerfile(compose):
    for name in ["encoder", *shards_of(compose), "gateway"]:
        role = "index" if name.startswith("shard") else name
        assert role in ROLES
        service = compose["services"][name]
        assert service["build"]["dockerfile"] == f"deploy/docker/{role}.Dockerfile"


def test_every_named_volume_is_declared(compose):
    mounts = [mount for service in compose["services"].values() for mount in service["volumes"]]
    named = {mount.split(":")[0] for mount in mounts if not mount.startswith((".", "/"))}
    assert named == set(compose["volumes"])


def test_the_builder_writes_the_catalogue_that_the_gateway_reads(compose):
    written = compose["services"]["build"]["environment"]["VITRINE_CATALOG"]
    assert compose["services"]["gateway"]["environment"]["VITRINE_GATEWAY_CATALOG"] == written
