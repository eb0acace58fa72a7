"""The Kubernetes manifests, against Kubernetes' own schemas and against each other."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from mm_pipelines.config import load_config

MANIFESTS = Path(__file__).parents[2] / "deploy" / "kubernetes"
VERSIONS = ("1.31.0", "1.34.0")
CUSTOM = {"ServiceMonitor", "Kustomization"}


def documents() -> Iterator[dict[str, Any]]:
    kustomization = yaml.safe_load((MANIFESTS / "kustomization.yaml").read_text())
    for name in kustomization["resources"]:
        yield from yaml.safe_load_all((MANIFESTS / name).read_text())


def of_kind(kind: str) -> dict[str, Any]:
    (found,) = (document for document in documents() if document["kind"] == kind)
    return found


@pytest.mark.parametrize("version", VERSIONS)
def test_every_manifest_is_valid_without_unknown_fields(version: str) -> None:
    checked = 0
    for document in documents():
        if document["kind"] not in CUSTOM:
            kubernetes_validate.validate(document, version, strict=True)
            checked += 1
    assert checked == 6


def test_every_file_is_part_of_the_kustomization() -> None:
    kustomization = yaml.safe_load((MANIFESTS / "kustomization.yaml").read_text())
    generated = [file for each in kustomization["configMapGenerator"] for file in each["files"]]
    named = {"kustomization.yaml", *kustomization["resources"], *generated}
    assert {path.name for path in MANIFESTS.iterdir()} == named


def test_the_example_configuration_is_valid() -> None:
    assert load_config(MANIFESTS / "mm.yaml").pages


def test_selectors_and_ports_name_the_receiver() -> None:
    labels = of_kind("Deployment")["spec"]["template"]["metadata"]["labels"]
    assert of_kind("Deployment")["spec"]["selector"]["matchLabels"] == labels
    assert of_kind("Service")["spec"]["selector"] == labels
    assert of_kind("PodDisruptionBudget")["spec"]["selector"]["matchLabels"] == labels
    assert of_kind("NetworkPolicy")["spec"]["podSelector"]["matchLabels"] == labels
    (rule,) = of_kind("Ingress")["spec"]["rules"]
    (path,) = rule["http"]["paths"]
    service = of_kind("Service")
    assert (path["path"], path["pathType"]) == ("/webhooks", "Exact")
    assert path["backend"]["service"]["name"] == service["metadata"]["name"]
    (port,) = service["spec"]["ports"]
    assert path["backend"]["service"]["port"] == {"name": port["name"]}
    assert (
        service["metadata"]["labels"]
        == of_kind("ServiceMonitor")["spec"]["selector"]["matchLabels"]
    )


@pytest.mark.parametrize("kind", ["Deployment", "Job"])
def test_containers_run_without_privileges_and_without_plain_secrets(kind: str) -> None:
    pod = of_kind(kind)["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsUser"] == 10001
    assert pod["automountServiceAccountToken"] is False
    (container,) = pod["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert all("valueFrom" in variable for variable in container["env"])
    assert container["image"] == "mm_pipelines"  # the name that the kustomization replaces
