"""Deployment files: valid by their own tools' word, and one with the code they speak of."""

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

from ops.cluster.acls import grants
from shared.settings import KafkaSettings
from tests.support import containers

ROOT = Path(__file__).resolve().parents[3]
COMPOSE = ROOT / "docker-compose.yml"
KUBERNETES = ROOT / "deploy" / "kubernetes"
OURS = ("api", "generator", "generator-2", "merger", "muxer", "prepare")
SECRETS = ("PASSWORD", "SECRET", "SEGMENT_KEYS", "API_KEY", "ACCESS_KEY")
KUBERNETES_VERSION = "1.30"  # the oldest that the manifests are for


def compose() -> dict[str, Any]:
    """The compose file as it stands, its variables unread."""
    told: dict[str, Any] = yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))
    return told


def manifests() -> list[tuple[str, dict[str, Any]]]:
    """Every Kubernetes resource with its file."""
    return [
        (path.name, one)
        for path in sorted(KUBERNETES.glob("*.yaml"))
        for one in yaml.safe_load_all(path.read_text(encoding="utf-8"))
        if one["kind"] != "Kustomization"
    ]


def named(kind: str) -> dict[str, dict[str, Any]]:
    """The resources of a kind by name."""
    return {one["metadata"]["name"]: one for _, one in manifests() if one["kind"] == kind}


def pods() -> dict[str, dict[str, Any]]:
    """The pod of each deployment and of the job."""
    found = named("Deployment") | named("Job")
    return {name: one["spec"]["template"]["spec"] for name, one in found.items()}


def test_hadolint_has_nothing_to_say_of_the_dockerfile() -> None:
    """Warnings too."""
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([hadolint, ROOT / "Dockerfile"], capture_output=True, text=True)  # noqa: PLW1510

    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("service", OURS)
def test_a_service_of_the_compose_file_can_do_little(service: str) -> None:
    """Read-only, no new privileges, no capabilities, limits, and no port but the api's."""
    told = compose()["services"][service]

    assert told["read_only"] is True
    assert told["cap_drop"] == ["ALL"]
    assert told["security_opt"] == ["no-new-privileges:true"]
    assert {"cpus", "memory", "pids"} <= told["deploy"]["resources"]["limits"].keys()
    assert ("ports" in told) == (service == "api")


def test_everything_in_the_compose_file_is_watched_and_limited() -> None:
    """A health check (ours are in the image), a restart policy, limits."""
    for service, told in compose()["services"].items():
        assert "build" in told or "healthcheck" in told, service
        assert told["restart"] == ("no" if service == "prepare" else "unless-stopped"), service
        assert "memory" in told["deploy"]["resources"]["limits"], service


def test_no_secret_stands_in_the_compose_file() -> None:
    """Each is a variable without a default, or is taken away."""
    wrong = [
        (service, name, value)
        for service, told in compose()["services"].items()
        for name, value in told.get("environment", {}).items()
        if name.endswith(SECRETS)
        and not re.fullmatch(r"\$\{[A-Z_]+:\?.+\}|\$\{[A-Z_]+:-\}|", value)
    ]

    assert not wrong


def test_the_tests_use_the_servers_of_the_compose_file() -> None:
    """One pin, in two places."""
    services = compose()["services"]

    assert services["kafka"]["image"] == containers.KAFKA_IMAGE
    assert services["postgres"]["image"] == containers.POSTGRES_IMAGE
    assert services["minio"]["image"] == containers.MINIO_IMAGE


@pytest.mark.parametrize(
    "one", [pytest.param(one, id=f"{file}-{one['kind']}") for file, one in manifests()]
)
def test_a_manifest_is_what_kubernetes_knows(one: dict[str, Any]) -> None:
    """By its own schemas, with no field that they lack."""
    kubernetes_validate.validate(one, KUBERNETES_VERSION, strict=True)


def test_every_manifest_is_applied_but_the_example_of_the_secrets() -> None:
    """A new file is listed, or does nothing."""
    told = yaml.safe_load((KUBERNETES / "kustomization.yaml").read_text(encoding="utf-8"))
    files = {path.name for path in KUBERNETES.glob("*.yaml")}

    assert set(told["resources"]) == files - {"kustomization.yaml", "secrets.example.yaml"}


@pytest.mark.parametrize("name", sorted(pods()))
def test_a_pod_may_do_little_and_finds_what_it_names(name: str) -> None:
    """Nobody's user, a root that is read only, and no reference to what is nowhere."""
    pod = pods()[name]
    (container,) = pod["containers"]
    refs = [ref for source in container["envFrom"] for ref in source.items()]

    assert pod["securityContext"]["runAsNonRoot"] is True
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert "memory" in container["resources"]["limits"]
    for kind, ref in refs:
        assert ref["name"] in named({"configMapRef": "ConfigMap", "secretRef": "Secret"}[kind])
    volumes = {volume["name"] for volume in pod["volumes"]}
    assert volumes == {mount["name"] for mount in container["volumeMounts"]}
    for volume in pod["volumes"]:
        assert volume.get("configMap", {"name": "segue"})["name"] in named("ConfigMap")


def test_pods_are_told_settings_that_exist() -> None:
    """A misspelt variable would be silently nothing."""
    example = (ROOT / ".env.example").read_text(encoding="utf-8")
    told = named("ConfigMap")["segue"]["data"].keys() | {
        name for secret in named("Secret").values() for name in secret["stringData"]
    }

    assert [name for name in sorted(told) if f"#{name}=" not in example] == []


def test_the_production_page_has_the_rights_as_they_are() -> None:
    """What `segue acls` prints, word for word."""
    page = (ROOT / "docs" / "production.md").read_text(encoding="utf-8")
    block = re.search(r"```\n(kafka-acls .*?)```", page, re.DOTALL)
    assert block is not None
    lines = block.group(1).replace("\\\n    ", "").splitlines()
    kafka = KafkaSettings(bootstrap_servers="kafka-0.kafka:9093")

    assert lines == [
        grant.command("kafka-0.kafka:9093", "admin.properties") for grant in grants(kafka)
    ]


def test_the_image_takes_every_pin_that_its_python_may_need() -> None:
    """A package may have several pins, one per Python; losing one left an image without numpy."""
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
