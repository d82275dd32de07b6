"""What is in deploy/ fits the program: options, settings, paths and times."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from bottlenet.cloud.ray.cluster import Deployed, environment, parse_deployed
from conftest import needs_ray

DEPLOY = Path(__file__).parent.parent / "deploy"
HAPROXY = "RAY_SERVE_HAPROXY_BINARY_PATH"


@pytest.fixture(scope="module")
def manifests() -> dict[str, dict[str, Any]]:
    """By kind."""
    documents = list(yaml.safe_load_all((DEPLOY / "rayservice.yaml").read_text()))
    return {one["kind"]: one for one in documents}


@pytest.fixture(scope="module")
def served(manifests: dict[str, dict[str, Any]]) -> dict[str, Any]:
    document = yaml.safe_load(manifests["RayService"]["spec"]["serveConfigV2"])
    assert isinstance(document, dict)
    return document


def pods(manifests: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    cluster = manifests["RayService"]["spec"]["rayClusterConfig"]
    return [one["template"] for one in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])]


def test_kubernetes_has_what_it_needs(manifests: dict[str, dict[str, Any]]) -> None:
    versions = {kind: one["apiVersion"] for kind, one in manifests.items()}
    assert versions == {
        "RayService": "ray.io/v1",
        "Ingress": "networking.k8s.io/v1",
        "NetworkPolicy": "networking.k8s.io/v1",
    }
    for pod in pods(manifests):
        (container,) = pod["spec"]["containers"]
        assert {one["name"] for one in container["volumeMounts"]} == {one["name"] for one in pod["spec"]["volumes"]}
        assert pod["metadata"]["labels"] == manifests["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"]
        assert pod["spec"]["securityContext"]["runAsNonRoot"]
        assert not container["securityContext"]["allowPrivilegeEscalation"]
    cluster = manifests["RayService"]["spec"]["rayClusterConfig"]
    assert cluster["authOptions"] == {"mode": "token"}
    (rule,) = manifests["Ingress"]["spec"]["rules"]
    (path,) = rule["http"]["paths"]
    assert path["backend"]["service"]["name"] == f"{manifests['RayService']['metadata']['name']}-serve-svc"


def test_the_port_is_the_same_everywhere(manifests: dict[str, dict[str, Any]], served: dict[str, Any]) -> None:
    port = served["http_options"]["port"]
    (rule,) = manifests["Ingress"]["spec"]["rules"]
    assert rule["http"]["paths"][0]["backend"]["service"]["port"]["number"] == port
    assert manifests["NetworkPolicy"]["spec"]["ingress"][0]["ports"][0]["port"] == port
    for pod in pods(manifests):
        ports = {one["name"]: one["containerPort"] for one in pod["spec"]["containers"][0]["ports"]}
        assert ports["serve"] == port
    assert f"EXPOSE {port}" in (DEPLOY / "ray.Dockerfile").read_text()


def test_what_replicas_are_told(manifests: dict[str, dict[str, Any]], served: dict[str, Any]) -> None:
    (application,) = served["applications"]
    assert application["import_path"] == "bottlenet.cloud.ray:app"
    deployed = parse_deployed(application["args"])
    for pod in pods(manifests):
        assert pod["spec"]["terminationGracePeriodSeconds"] > deployed.end_s
        mounts = [one["mountPath"] for one in pod["spec"]["containers"][0]["volumeMounts"]]
        assert deployed.watch in mounts
        assert str(Path(str(deployed.tokens)).parent) in mounts
    # All replicas that may be fit on all machines that may be.
    (group,) = manifests["RayService"]["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    cores = int(group["template"]["spec"]["containers"][0]["resources"]["requests"]["cpu"])
    assert deployed.max_replicas == group["maxReplicas"] * cores // deployed.threads
    annotations = manifests["Ingress"]["metadata"]["annotations"]
    assert float(annotations["nginx.ingress.kubernetes.io/proxy-read-timeout"]) > deployed.limits.idle_s


@needs_ray
def test_ray_takes_the_configuration(manifests: dict[str, dict[str, Any]], served: dict[str, Any]) -> None:
    """In a process of its own, as Ray has its settings from when it is imported."""
    code = (
        "import sys, json; from ray.serve.schema import ServeDeploySchema as S; S.model_validate(json.load(sys.stdin))"
    )
    told = json.dumps(served)
    subprocess.run([sys.executable, "-c", code], input=told, text=True, check=True, timeout=120, capture_output=True)
    assert served["http_options"]["host"] == "0.0.0.0"
    cluster = manifests["RayService"]["spec"]["rayClusterConfig"]
    assert f"ray=={cluster['rayVersion']}\n" in (DEPLOY.parent / "constraints.txt").read_text()


def test_the_container_has_the_same_settings_as_the_command() -> None:
    text = (DEPLOY / "ray.Dockerfile").read_text()
    settings = dict(re.findall(r"\b((?:RAY|BOTTLENET)_\w+)=(\S+)", text[text.index("\nENV ") :]))
    assert settings.pop(HAPROXY).endswith("/bottlenet-haproxy")
    ours = environment(Deployed(("demo",)))
    of_the_machine = {"RAY_SERVE_HAPROXY_NBTHREAD", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"}
    assert settings == {name: value for name, value in ours.items() if name not in of_the_machine}


EXTRAS = {"device": ["mqtt"], "server": ["cloud", "mqtt"], "ray": ["cloud", "ray"]}


@pytest.mark.parametrize("image", EXTRAS)
def test_an_image_installs_nothing_without_its_hash(image: str) -> None:
    text = (DEPLOY / f"{image}.Dockerfile").read_text()
    assert f"--require-hashes --requirement {image}.txt" in text
    assert "pip install --no-cache-dir --no-index --no-deps --no-build-isolation . " in text  # this alone has none
    assert text.count("pip install") == 2
    (copied,) = re.findall(r"^COPY (pyproject.*) \./$", text, re.MULTILINE)
    assert all((DEPLOY.parent / path).is_file() for path in copied.split())
    assert f"deploy/{image}.txt" in copied


@pytest.mark.parametrize("image", EXTRAS)
def test_a_lock_is_of_this_project(image: str) -> None:
    """All that pyproject.toml asks for, in the versions of constraints.txt, each with a hash: deploy/lock.py."""
    lines = (DEPLOY / f"{image}.txt").read_text().replace("\\\n", "").splitlines()
    locked = {}
    for line in lines[1:]:
        found = re.fullmatch(r"([a-z0-9-]+)==([0-9a-z.]+)((?: +--hash=sha256:[0-9a-f]{64}){1,2})", line)
        assert found is not None, line
        locked[found[1]] = found[2]
    constraints = (DEPLOY.parent / "constraints.txt").read_text()
    tested = dict(re.findall(r"^([a-z0-9-]+)==([^;\s]+)(?: *; python_version >= .*)?$", constraints, re.MULTILINE))
    building = {"hatchling", "tomlkit", "trove-classifiers"}
    assert {name: tested.get(name) for name in locked if name not in building} == {
        name: version for name, version in locked.items() if name not in building
    }
    project = (DEPLOY.parent / "pyproject.toml").read_text()
    wanted = ["hatchling"]
    for block in ["dependencies", *EXTRAS[image]]:
        (listed,) = re.findall(rf"^{block} = \[\n(.*?)^\]", project, re.MULTILINE | re.DOTALL)
        wanted += re.findall(r'^ +"([a-z0-9-]+)[^a-z0-9-]', listed, re.MULTILINE)
    assert set(wanted) - {"bottlenet"} <= set(locked)


@pytest.mark.parametrize("name", ["server", "device", "ray"])
def test_scripts_of_the_containers_exist(name: str) -> None:
    project = (DEPLOY.parent / "pyproject.toml").read_text()
    text = (DEPLOY / f"{name}.Dockerfile").read_text()
    for script in re.findall(r"/usr/local/bin/(bottlenet[a-z-]*)", text):
        assert f"\n{script} = " in project
