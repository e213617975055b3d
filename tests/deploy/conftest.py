"""What the files in deploy/ say, read without an engine or a cluster."""

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import yaml

from rpc.settings import ServiceSettings
from tests.deploy.readers import DEPLOY, ROLES, Dockerfile, settings_class

Rendered = list[dict[str, Any]]


@pytest.fixture(params=ROLES)
def role(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def dockerfile() -> Callable[[str], Dockerfile]:
    def read(name: str) -> Dockerfile:
        text = (DEPLOY / "docker" / f"{name}.Dockerfile").read_text()
        return Dockerfile(text.replace("\\\n", " "))

    return read


@pytest.fixture(scope="session")
def compose() -> dict[str, Any]:
    """The Compose file as it is without any variable set: ${NAME:-default} is the default."""
    text = (DEPLOY / "compose.yaml").read_text()
    return dict(yaml.safe_load(re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)))


@pytest.fixture(scope="session")
def render() -> Callable[[str], Rendered]:
    """Return the resources that a kustomization renders to."""
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed; it renders deploy/kubernetes")

    def run(path: str) -> Rendered:
        command = ["kubectl", "kustomize", str(DEPLOY / "kubernetes" / path)]
        rendered = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert rendered.returncode == 0, rendered.stderr
        return list(yaml.safe_load_all(rendered.stdout))

    return run


@pytest.fixture(scope="session")
def base(render: Callable[[str], Rendered]) -> Rendered:
    return render("base")


@pytest.fixture
def settings_from(
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[[str, Mapping[str, str]], ServiceSettings]:
    """Return a service's settings as a process would read them from an environment."""

    def read(role: str, environment: Mapping[str, str]) -> ServiceSettings:
        with monkeypatch.context() as patch:
            for name in [name for name in os.environ if name.startswith("VITRINE_")]:
                patch.delenv(name)
            for name, value in environment.items():
                patch.setenv(name, value)
            return settings_class(role)()

    return read
