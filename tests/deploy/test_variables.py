"""A service ignores variables that it does not know, so a misspelt one must be caught here."""

import re

import pytest
from pydantic import ValidationError

from tests.deploy.readers import DEPLOY, ROLES, ROOT, read_env_file, settings_class

SETTINGS = DEPLOY / "kubernetes" / "base" / "settings"
CATALOG = {"VITRINE_GATEWAY_CATALOG": "postgresql://vitrine@db/vitrine"}
SHARD = {"VITRINE_INDEX_SHARD": "0"}


def variables_in_deploy():
    files = (path for path in DEPLOY.rglob("*") if path.is_file())
    return {
        name for path in files for name in re.findall(r"VITRINE_[A-Z_]*[A-Z]", path.read_text())
    }


def variables_of_services():
    return {
        f"{kind.model_config['env_prefix']}{field}".upper()
        for kind in map(settings_class, ROLES)
        for field in kind.model_fields
    }


def variables_of_the_cli():
    sources = "".join(path.read_text() for path in (ROOT / "cli").glob("*.py"))
    return set(re.findall(r'envvar="(\w+)"', sources))


def test_every_variable_in_deploy_is_read_by_a_service_or_the_cli():
    named = variables_in_deploy()
    assert "VITRINE_GATEWAY_SHARDS" in named
    assert named - variables_of_services() - variables_of_the_cli() == set()


def test_a_services_prefix_is_its_role(role):
    assert settings_class(role).model_config["env_prefix"] == f"VITRINE_{role.upper()}_"


def test_every_required_setting_is_given_in_kubernetes_and_accepted(role, settings_from):
    given = read_env_file(SETTINGS / f"{role}.env")
    from_elsewhere = {"gateway": CATALOG, "index": SHARD}.get(role, {})
    settings = settings_from(role, given | from_elsewhere)
    assert settings.drain_delay_s == 5.0


def test_every_required_setting_is_given_in_compose_and_accepted(compose, settings_from):
    for service in ("encoder", "shard-0", "shard-1", "shard-2", "shard-3", "gateway"):
        role = "index" if service.startswith("shard") else service
        settings_from(role, compose["services"][service]["environment"])


def test_a_gateway_without_its_catalogue_is_refused(settings_from):
    with pytest.raises(ValidationError, match="catalog"):
        settings_from("gateway", read_env_file(SETTINGS / "gateway.env"))


def test_images_listen_on_every_address(role, dockerfile, settings_from):
    prefix = f"VITRINE_{role.upper()}_"
    environment = {
        name: value
        for name, value in dockerfile(role).environment.items()
        if name.startswith(prefix)
    }
    required = read_env_file(SETTINGS / f"{role}.env") | CATALOG | SHARD
    assert settings_from(role, required | environment).host == "0.0.0.0"
