"""Tests of the deployment files: valid by their own tools, and consistent with the code."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]
import pytest
import yaml  # type: ignore[import-untyped]

from embedded.servers.object_store import NativeVersitygw
from ops.cluster.acls import grants
from shared.settings import FfmpegSettings, KafkaSettings, MediaSettings, ScratchSettings
from tests.support import containers

ROOT = Path(__file__).resolve().parents[3]
COMPOSE = ROOT / "docker-compose.yml"
KUBERNETES = ROOT / "deploy" / "kubernetes"
SERVICES = ("api", "generator", "generator-2", "merger", "muxer", "prepare")
PINNED = re.compile(r"^[a-z0-9./-]+:[A-Za-z0-9.-]+@sha256:[0-9a-f]{64}$")  # tag and digest
SECRETS = ("PASSWORD", "SECRET", "SEGMENT_KEYS", "API_KEY", "ACCESS_KEY")
KUBERNETES_VERSION = "1.30"  # the oldest supported version


def compose() -> dict[str, Any]:
    """Return the compose file with its variables unresolved."""
    content: dict[str, Any] = yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))
    return content


def manifests() -> list[tuple[str, dict[str, Any]]]:
    """Return every Kubernetes resource with its file."""
    return [
        (path.name, resource)
        for path in sorted(KUBERNETES.glob("*.yaml"))
        for resource in yaml.safe_load_all(path.read_text(encoding="utf-8"))
        if resource["kind"] != "Kustomization"
    ]


def resources_of(kind: str) -> dict[str, dict[str, Any]]:
    """Return the resources of a kind by name."""
    return {
        resource["metadata"]["name"]: resource
        for _, resource in manifests()
        if resource["kind"] == kind
    }


def pods() -> dict[str, dict[str, Any]]:
    """Return the pod of each deployment and of the job."""
    resources = resources_of("Deployment") | resources_of("Job")
    return {name: resource["spec"]["template"]["spec"] for name, resource in resources.items()}


def test_hadolint_accepts_the_dockerfile() -> None:
    """Without warnings."""
    hadolint = Path(sys.executable).with_name("hadolint")
    result = subprocess.run([hadolint, ROOT / "Dockerfile"], capture_output=True, text=True)  # noqa: PLW1510

    assert (result.returncode, result.stdout) == (0, "")


@pytest.mark.parametrize("service", SERVICES)
def test_a_compose_service_has_minimal_privileges(service: str) -> None:
    """Read-only, no new privileges, no capabilities, limits, and no port except of the api."""
    config = compose()["services"][service]

    assert config["read_only"] is True
    assert config["cap_drop"] == ["ALL"]
    assert config["security_opt"] == ["no-new-privileges:true"]
    assert {"cpus", "memory", "pids"} <= config["deploy"]["resources"]["limits"].keys()
    assert ("ports" in config) == (service == "api")


def test_every_compose_service_has_a_health_check_and_limits() -> None:
    """Also a restart policy; the health checks of built images are in the Dockerfile."""
    for service, config in compose()["services"].items():
        assert "build" in config or "healthcheck" in config, service
        expected = "no" if service in {"prepare", "minio-account"} else "unless-stopped"
        assert config["restart"] == expected, service
        assert "memory" in config["deploy"]["resources"]["limits"], service


def test_the_compose_file_has_no_secret() -> None:
    """Each secret is a variable without a default, or empty."""
    invalid = [
        (service, name, value)
        for service, config in compose()["services"].items()
        for name, value in config.get("environment", {}).items()
        if name.endswith(SECRETS)
        and not re.fullmatch(r"\$\{[A-Z_]+:\?.+\}|\$\{[A-Z_]+:-\}|", value)
    ]

    assert not invalid


def test_every_foreign_image_is_pinned_by_its_digest() -> None:
    """A tag can be moved; own images are built from the Dockerfile, whose base is pinned too."""
    images = [service["image"] for service in compose()["services"].values()]
    foreign = [image for image in images if not image.startswith("segue-")]
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    bases = re.findall(r"^(?:ARG \w+_IMAGE=|FROM )(\S+:\S+)", dockerfile, re.MULTILINE)

    assert len(foreign) == 6
    assert [image for image in foreign + bases if not PINNED.match(image)] == []
    assert len(bases) == 1


def test_the_services_have_accounts_of_their_own() -> None:
    """Neither the root account of the store nor the superuser of the database."""
    services = compose()["services"]
    admin = {"MINIO_ROOT_USER", "MINIO_ROOT_PASSWORD", "POSTGRES_ADMIN_PASSWORD"}
    for name in SERVICES:
        environment = services[name]["environment"]
        used = {value for key, value in environment.items() if key not in admin}
        assert not [one for one in used if any(variable in one for variable in admin)], name
        assert all(environment[variable] == "" for variable in admin), name
    database = services["api"]["environment"]["DATABASE_URL"]
    account = (ROOT / "deploy/compose/postgres-account.sh").read_text(encoding="utf-8")

    assert database.startswith("postgresql://segue:")
    assert services["postgres"]["environment"]["POSTGRES_USER"] == "postgres"
    assert "NOSUPERUSER NOCREATEDB NOCREATEROLE" in account
    assert services["prepare"]["depends_on"]["minio-account"] == {
        "condition": "service_completed_successfully"
    }


def _policies_of(component: str) -> list[dict[str, Any]]:
    """Return the network policies that select the pods of a component."""
    labels = {"app.kubernetes.io/name": "segue", "app.kubernetes.io/component": component}
    policies = []
    for policy in resources_of("NetworkPolicy").values():
        selector = policy["spec"]["podSelector"]
        expressions = selector.get("matchExpressions", [])
        if selector.get("matchLabels", {}).items() <= labels.items() and all(
            labels[one["key"]] in one["values"] for one in expressions
        ):
            policies.append(policy["spec"])
    return policies


@pytest.mark.parametrize("component", ["api", "generator", "merger", "muxer", "prepare"])
def test_every_pod_has_limited_egress(component: str) -> None:
    """Only the api reaches the database; the internet is never a private address."""
    policies = _policies_of(component)
    rules = [rule for policy in policies for rule in policy.get("egress", [])]
    ports = {port["port"] for rule in rules for port in rule["ports"]}
    public = [
        peer["ipBlock"]
        for rule in rules
        for peer in rule["to"]
        if peer.get("ipBlock", {}).get("cidr") == "0.0.0.0/0"
    ]

    assert any("Egress" in policy["policyTypes"] for policy in policies)
    assert all(rule["to"] for rule in rules), "an empty list would allow every destination"
    assert (5432 in ports) == (component == "api")
    assert (80 in ports) == (component in {"generator", "muxer"})
    for block in public:
        assert {"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16"} <= set(
            block["except"]
        )


def test_the_tests_use_the_server_images_of_the_compose_file() -> None:
    """The versions are pinned in two places."""
    services = compose()["services"]

    assert services["kafka"]["image"] == containers.KAFKA_IMAGE
    assert services["postgres"]["image"] == containers.POSTGRES_IMAGE
    assert services["minio"]["image"] == containers.MINIO_IMAGE


class _Override(yaml.SafeLoader):  # type: ignore[misc]
    """Reads Compose's `!override` as the value behind it."""


_Override.add_constructor(
    "!override",
    lambda loader, node: (
        loader.construct_mapping(node, deep=True)
        if isinstance(node, yaml.MappingNode)
        else loader.construct_sequence(node, deep=True)
    ),
)


def test_versitygw_replaces_minio_in_every_service_of_its_image() -> None:
    """The tested version, with accounts of its own, and no service of the other image left."""
    content = (ROOT / "deploy/compose/versitygw.yml").read_text(encoding="utf-8")
    replaced = yaml.load(content, Loader=_Override)["services"]  # noqa: S506 - a safe loader
    of_minio = {
        name
        for name, service in compose()["services"].items()
        if service["image"] == containers.MINIO_IMAGE
    }

    assert of_minio == {"minio", "minio-account"} <= set(replaced)
    assert {service["image"] for service in replaced.values()} == {
        f"versity/versitygw:v{NativeVersitygw.release}"
    }
    assert replaced["minio"]["environment"].keys() == {"ROOT_ACCESS_KEY", "ROOT_SECRET_KEY"}
    for service in replaced.values():
        for mount in service["volumes"]:
            source = mount.partition(":")[0]
            assert source == "versitygw" or (ROOT / source).is_file()


@pytest.mark.parametrize(
    "resource",
    [pytest.param(resource, id=f"{file}-{resource['kind']}") for file, resource in manifests()],
)
def test_a_manifest_is_valid(resource: dict[str, Any]) -> None:
    """By the schemas of Kubernetes, without unknown fields."""
    kubernetes_validate.validate(resource, KUBERNETES_VERSION, strict=True)


def test_every_manifest_except_the_example_is_applied() -> None:
    """A file that is not listed has no effect."""
    content = yaml.safe_load((KUBERNETES / "kustomization.yaml").read_text(encoding="utf-8"))
    files = {path.name for path in KUBERNETES.glob("*.yaml")}

    assert set(content["resources"]) == files - {"kustomization.yaml", "secrets.example.yaml"}


@pytest.mark.parametrize("name", sorted(pods()))
def test_a_pod_has_minimal_privileges_and_valid_references(name: str) -> None:
    """Non-root, a read-only root, and no reference to a missing resource."""
    pod = pods()[name]
    (container,) = pod["containers"]
    refs = [ref for source in container["envFrom"] for ref in source.items()]

    assert pod["securityContext"]["runAsNonRoot"] is True
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert "memory" in container["resources"]["limits"]
    for kind, ref in refs:
        assert ref["name"] in resources_of(
            {"configMapRef": "ConfigMap", "secretRef": "Secret"}[kind]
        )
    volumes = {volume["name"] for volume in pod["volumes"]}
    assert volumes == {mount["name"] for mount in container["volumeMounts"]}
    for volume in pod["volumes"]:
        assert volume.get("configMap", {"name": "segue"})["name"] in resources_of("ConfigMap")


def test_manifests_use_existing_settings() -> None:
    """A misspelt variable would have no effect."""
    example = (ROOT / ".env.example").read_text(encoding="utf-8")
    names = resources_of("ConfigMap")["segue"]["data"].keys() | {
        name for secret in resources_of("Secret").values() for name in secret["stringData"]
    }

    assert [name for name in sorted(names) if f"#{name}=" not in example] == []


def test_the_production_page_lists_the_current_acls() -> None:
    """The output of `segue acls`, verbatim."""
    page = (ROOT / "docs" / "production.md").read_text(encoding="utf-8")
    block = re.search(r"```\n(kafka-acls .*?)```", page, re.DOTALL)
    assert block is not None
    lines = block.group(1).replace("\\\n    ", "").splitlines()
    kafka = KafkaSettings(bootstrap_servers="kafka-0.kafka:9093")

    assert lines == [
        grant.command("kafka-0.kafka:9093", "admin.properties") for grant in grants(kafka)
    ]


def test_the_image_keeps_every_pin_of_a_package() -> None:
    """A package may have a pin per Python version."""
    pick = _pick()
    lock = pick.entries(
        "a==1 ; python_version < '3.12' \\\n    --hash=x\na==2 \\\n    --hash=y\nb_c==1\n"
    )

    assert lock == {
        "a": "a==1 ; python_version < '3.12' \\\n    --hash=x\na==2 \\\n    --hash=y\n",
        "b-c": "b_c==1\n",
    }


def _pick() -> ModuleType:
    spec = importlib.util.spec_from_file_location("pick", ROOT / "deploy" / "image" / "pick.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


#: what a service needs beside its children, and whether it runs ffmpeg; one process per core
OWN_MEMORY = {"api": (384, 0), "generator": (640, 0), "merger": (512, 1), "muxer": (384, 2)}
_UNITS = {"M": 1, "Mi": 1, "G": 1024, "Gi": 1024}


@pytest.mark.parametrize("service", OWN_MEMORY)
def test_the_memory_limit_holds_the_children_that_read_media(service: str) -> None:
    """In compose and in Kubernetes, at the defaults of the settings."""
    (container,) = pods()[f"segue-{service}"]["containers"]
    own, ffmpegs = OWN_MEMORY[service]
    readers = 0 if service == "merger" else MediaSettings().slots
    needed = own + readers * MediaSettings().memory_bytes_max // 2**20
    needed += ffmpegs * FfmpegSettings().memory_bytes_max // 2**20
    limits = [
        compose()["services"][service]["deploy"]["resources"]["limits"]["memory"],
        container["resources"]["limits"]["memory"],
    ]

    assert [limit for limit in limits if _mib(limit) < needed] == []


@pytest.mark.parametrize("service", OWN_MEMORY)
def test_the_scratch_volume_holds_the_scratch_space_of_the_service(service: str) -> None:
    """A pod over the size of its volume is evicted, with all its work."""
    pod = pods()[f"segue-{service}"]
    (container,) = pod["containers"]
    (volume,) = (v for v in pod["volumes"] if v["name"] == "scratch")
    environment = {variable["name"]: variable["value"] for variable in container.get("env", ())}
    limit = environment.get("SEGUE_SCRATCH_BYTES_MAX", ScratchSettings().bytes_max)

    assert int(limit) <= _mib(volume["emptyDir"]["sizeLimit"]) * 2**20


def _mib(size: str) -> int:
    number = size.rstrip("GMi")
    return int(number) * _UNITS[size.removeprefix(number)]
