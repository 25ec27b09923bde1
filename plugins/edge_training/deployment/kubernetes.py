"""A Kubernetes manifest for an image: a Deployment that rolls over without a gap, and a Service."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from edge_training.deployment.targets import Candidate, KubernetesTarget

_UID = 65532


def manifest(target: KubernetesTarget, candidate: Candidate, reference: str, port: int) -> str:
    """Return the manifest as YAML; the same image gives the same text.

    :param target: where it goes.
    :param candidate: what goes there.
    :param reference: ``registry/repository@digest``.
    :param port: the port that the image exposes.
    """
    labels = {"app.kubernetes.io/name": target.name, "app.kubernetes.io/managed-by": "edge-training"}
    about = {
        "edge-training/model": candidate.model,
        "edge-training/version": candidate.version,
        "edge-training/run-id": candidate.run_id,
    }
    metadata = {"name": target.name, "namespace": target.namespace, "labels": labels, "annotations": about}
    pod = {
        # A model needs no identity in the cluster.
        "automountServiceAccountToken": False,
        "securityContext": {"runAsNonRoot": True, "runAsUser": _UID, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [_container(target, reference, port)],
        "volumes": [{"name": "tmp", "emptyDir": {}}],
    }
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata,
        "spec": {
            "replicas": target.replicas,
            "selector": {"matchLabels": labels},
            # The new pods serve before the old ones go.
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
            "template": {"metadata": {"labels": labels, "annotations": about}, "spec": pod},
        },
    }
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata,
        "spec": {"selector": labels, "ports": [{"name": "http", "port": target.port, "targetPort": "http"}]},
    }
    return yaml.safe_dump_all([_without_aliases(deployment), _without_aliases(service)], sort_keys=False)


def _container(target: KubernetesTarget, reference: str, port: int) -> dict[str, Any]:
    health = {"httpGet": {"path": "/", "port": "http"}, "periodSeconds": 5}
    amounts = {"memory": target.memory, "cpu": target.cpu}
    return {
        "name": "model",
        "image": reference,
        "ports": [{"name": "http", "containerPort": port}],
        "readinessProbe": health,
        "livenessProbe": {**health, "initialDelaySeconds": 30},
        "resources": {"requests": amounts, "limits": {"memory": target.memory}},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],  # noqa: S108 - the container's own
    }


def _without_aliases(value: Any) -> Any:
    """Return a copy in which no part occurs twice, which YAML would write as a reference that few people can read."""
    if isinstance(value, dict):
        return {name: _without_aliases(item) for name, item in value.items()}
    return [_without_aliases(item) for item in value] if isinstance(value, list) else value
