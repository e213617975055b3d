"""One image a service: its own code, its own extra, its own ports, nobody's root."""

import re
import tomllib

import pytest

from tests.deploy.readers import DEPLOY, ROLES, ROOT, default_ports

IMAGES = (*ROLES, "build")
EXTRAS = {
    "encoder": {"encoder"},
    "index": {"index"},
    "gateway": {"gateway"},
    "build": {"encoder", "index", "gateway"},
}
SHARED = {"protos", "rpc", "cli"}


def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def extras_of(image):
    (wheels,) = [line for line in image.values("RUN") if line.startswith("pip wheel")]
    return set(re.search(r'"\.\[([\w,]+)\]"', wheels)[1].split(","))


@pytest.mark.parametrize("name", IMAGES)
def test_an_image_has_only_the_extras_of_what_it_runs(name, dockerfile):
    assert extras_of(dockerfile(name)) == EXTRAS[name]
    assert EXTRAS[name] <= set(project()["optional-dependencies"])


@pytest.mark.parametrize("name", IMAGES)
def test_an_image_has_only_the_packages_that_it_runs(name, dockerfile):
    copied = {
        line.split()[0] for line in dockerfile(name).values("COPY") if "pyproject" not in line
    }
    assert copied == SHARED | {ROLES[extra] for extra in EXTRAS[name]}


@pytest.mark.parametrize("name", IMAGES)
def test_no_image_has_torch(name):
    requirements = project()["dependencies"] + [
        line for extra in EXTRAS[name] for line in project()["optional-dependencies"][extra]
    ]
    names = {re.match(r"[\w.-]+", line)[0] for line in requirements}
    assert names.isdisjoint({"torch", "transformers", "sentence-transformers", "onnxscript"})


@pytest.mark.parametrize("name", IMAGES)
def test_an_image_does_not_run_as_root(name, dockerfile):
    image = dockerfile(name)
    assert image.values("USER") == ["10001:10001"]
    assert image.text.rindex("\nUSER") > image.text.rindex("\nRUN")


@pytest.mark.parametrize("name", IMAGES)
def test_everything_copied_into_an_image_reaches_the_builder(name, dockerfile):
    allowed = {
        line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] == "!"
    }
    copied = {source for line in dockerfile(name).values("COPY") for source in line.split()[:-1]}
    assert copied <= allowed


def test_an_image_exposes_and_probes_the_default_ports(role, dockerfile):
    image = dockerfile(role)
    grpc_port, http_port = default_ports(role)
    assert image.values("EXPOSE") == [f"{grpc_port} {http_port}"]
    (probe,) = image.values("HEALTHCHECK")
    assert f'"rpc.health_probe", "127.0.0.1:{grpc_port}"' in probe


def test_an_image_starts_its_service(role, dockerfile):
    assert dockerfile(role).values("ENTRYPOINT") == [f'["python", "-m", "{ROLES[role]}"]']
    assert (ROOT / ROLES[role] / "__main__.py").exists()


def test_every_image_tag_is_the_projects_version():
    text = "".join(path.read_text() for path in DEPLOY.rglob("*") if path.is_file())
    tags = re.findall(
        r"vitrine-(?:encoder|index|gateway|build)(?::|, newTag: )(\d+\.\d+\.\d+)", text
    )
    assert set(tags) == {project()["version"]}
