"""The remote calls of the pipeline: what the SDK, the hooks and the run itself ask each service for, and in which step."""

from __future__ import annotations

import re
from dataclasses import dataclass

COMPUTE = "ensure_compute_attached"
SUBMIT = "submit_experiment"
POLL = "poll_run"
REGISTER = "register_model"
AUDIT = "audit_egress"
PREPARE = "prepare_serving_host"
BUILD = "build_and_push_image"
TRY_OUT = "verify_image"
DEPLOY = "deploy_model"
VERIFY = "verify_blob_data"
BASE = "resolve_base_image"
REGISTRY = "registry"
BLOB = "blob"
EVERY = (COMPUTE, SUBMIT, POLL, AUDIT, REGISTER, BUILD, TRY_OUT, DEPLOY)

# What has to be so before a round, that a call is made at all.
DETACHED = "the VM is not attached"
NEW_CODE = "the training code has changed"


@dataclass(frozen=True)
class Call:
    """One kind of request.

    :param name: what a person calls it.
    :param path: a regular expression, found anywhere in the request's path; of registry and blobs, with its query.
    :param steps: the tasks that make it; the run itself goes on during ``poll_run``.
    :param needs: what has to be prepared, or ``""``.
    :param service: who is asked: ``azure-ml``, ``registry`` or ``blob``.
    """

    name: str
    method: str
    path: str
    steps: tuple[str, ...]
    needs: str = ""
    service: str = "azure-ml"

    @property
    def title(self) -> str:
        """What it is called among those of all services."""
        return self.name if self.service == "azure-ml" else f"{self.service}, {self.name}"

    def matches(self, method: str, path: str) -> bool:
        """Tell whether a request is of this kind."""
        return method == self.method and re.search(self.path, path) is not None


CALLS = (
    Call("find the authority", "GET", r"/\.well-known/openid-configuration$", EVERY),
    Call("log in", "POST", r"/oauth2/token$", EVERY),
    Call("list subscriptions", "GET", r"^/subscriptions$", EVERY),
    Call("open the workspace", "GET", r"^/subscriptions/.*/workspaces/[^/]+$", EVERY),
    Call("find the services", "GET", r"^/discovery/", (SUBMIT, POLL, AUDIT, REGISTER, BUILD, TRY_OUT, DEPLOY)),
    Call("find the compute", "GET", r"^/rp/workspaces/.*/computes/", (COMPUTE, SUBMIT)),
    Call("attach the VM", "PUT", r"/computes/[^/]+$", (COMPUTE,), DETACHED),
    Call("find the experiment", "GET", r"/experiments/[^/]+$", (SUBMIT, REGISTER)),
    Call("name the experiment", "GET", r"/experimentids/[^/]+$", (SUBMIT, POLL, REGISTER)),
    Call("look for a snapshot", "GET", r"/snapshots/latest/metadata$", (SUBMIT,), NEW_CODE),
    Call("ask where to send code", "POST", r"/snapshots/getblob$", (SUBMIT,), NEW_CODE),
    Call("send code", "PUT", r"^/blobs/", (SUBMIT,), NEW_CODE),
    Call("check what was sent", "HEAD", r"^/blobs/", (SUBMIT,), NEW_CODE),
    Call("finish the snapshot", "POST", r"/content/v2\.0/.*/snapshots/[0-9a-f-]+$", (SUBMIT,), NEW_CODE),
    Call("list the runs", "POST", r"/runs:query$", (SUBMIT,)),
    Call("submit the run", "POST", r"/snapshotrun$", (SUBMIT,)),
    Call("find the run", "GET", r"^/history/v1\.0/.*/workspaces/[^/]+/runs/[^/]+$", (SUBMIT, POLL, REGISTER)),
    Call("find the run by experiment", "GET", r"/experimentids/[^/]+/runs/[^/]+$", (REGISTER, BUILD)),
    Call("read the run's details", "GET", r"/runs/[^/]+/details$", (SUBMIT, POLL)),
    Call("list the user's logs", "GET", r"/user_logs$", (POLL,)),
    Call("list the system's logs", "GET", r"/system_logs$", (POLL,)),
    Call("read a file", "GET", r"^/blobs/", (POLL, AUDIT, REGISTER, BUILD, TRY_OUT)),
    Call("report from the run", "PATCH", r"/experiments/[^/]+/runs/[^/]+$", (SUBMIT, POLL)),
    Call("write on the run", "PATCH", r"/experimentids/[^/]+/runs/[^/]+$", (AUDIT,)),
    Call("read the snapshot", "POST", r"/snapshots/[^/]+/zip$", (AUDIT,)),
    Call("send metrics from the run", "POST", r"/metric/.*/batch$", (POLL,)),
    Call("wait for metrics in the run", "GET", r"/metricsingest/wait$", (POLL,)),
    Call("list the run's files", "GET", r"/artifacts/ExperimentRun/[^/]+$", (POLL,)),
    Call("list the metrics", "POST", r"/metric/.*/list$", (POLL,)),
    Call("read a metric", "POST", r"/metric/.*/full$", (POLL,)),
    Call("look for the version", "GET", r"/modelmanagement/.*/models$", (REGISTER,)),
    Call("find the model file", "GET", r"/artifacts/contentinfo/", (REGISTER,)),
    Call("find the model folder", "GET", r"/artifacts/prefix/contentinfo/.*/outputs/", (REGISTER, BUILD)),
    Call("make the asset", "POST", r"/modelmanagement/.*/assets$", (REGISTER,)),
    Call("make the version", "POST", r"/modelmanagement/.*/models$", (REGISTER,)),
    Call("find the version", "GET", r"/modelmanagement/.*/models/[^/]+$", (BUILD,)),
    Call("find the version's asset", "GET", r"/modelmanagement/.*/assets/[^/]+$", (BUILD,)),
    Call("write on the version", "PATCH", r"/modelmanagement/.*/models/[^/]+$", (BUILD, DEPLOY)),
    Call("log in", "GET", r"^/v2/$", (BASE, PREPARE, REGISTER, BUILD), service=REGISTRY),
    Call("find an image", "GET", r"/manifests/", (BASE, PREPARE, REGISTER, BUILD, TRY_OUT, DEPLOY), service=REGISTRY),
    Call(
        "read a layer or an image's settings",
        "GET",
        r"/blobs/sha256:",
        (BASE, BUILD, TRY_OUT, DEPLOY),
        service=REGISTRY,
    ),
    Call("look for a layer", "HEAD", r"/blobs/sha256:", (PREPARE, BUILD), service=REGISTRY),
    Call("look for the tag", "HEAD", r"/manifests/v\d+$", (BUILD,), service=REGISTRY),
    Call("look for what all images share", "HEAD", r"/manifests/serving-[0-9a-f]+$", (PREPARE,), service=REGISTRY),
    Call("begin to send a layer", "POST", r"/blobs/uploads/$", (BUILD,), service=REGISTRY),
    Call("send a part of a layer", "PATCH", r"/blobs/uploads/", (BUILD,), service=REGISTRY),
    Call("end a layer", "PUT", r"/blobs/uploads/", (BUILD,), service=REGISTRY),
    Call("send the image", "PUT", r"/manifests/sha256:", (BUILD,), service=REGISTRY),
    Call("look for attachments", "GET", r"/referrers/sha256:", (BUILD,), service=REGISTRY),
    Call("list attachments under the fallback tag", "PUT", r"/manifests/sha256-", (BUILD,), service=REGISTRY),
    Call("set the tag", "PUT", r"/manifests/v\d+$", (BUILD,), service=REGISTRY),
    Call("list the blobs", "GET", r"[?&]comp=list", (VERIFY,), service=BLOB),
    Call("read the schema", "GET", r"/schema\.json$", (VERIFY,), service=BLOB),
    Call("read a blob's head", "GET", r"\.csv$", (VERIFY,), service=BLOB),
    Call("note what the run is", "PUT", r"/residency-receipts/_submitted/", (SUBMIT,), service=BLOB),
    Call("read a receipt", "GET", r"/residency-receipts/[a-z].*\.json$", (AUDIT, BUILD), service=BLOB),
    Call("store the receipt", "PUT", r"/residency-receipts/[a-z].*\.json$", (AUDIT,), service=BLOB),
    Call("reach the account from the VM", "GET", r"^/[^/?]+$", (COMPUTE,), service=BLOB),
    Call("fetch a blob in the run", "GET", r"\.csv\?", (POLL,), service=BLOB),
)

# Made by the very first DAG run only, which nothing disturbs.
ONCE = (
    Call("make the container of receipts", "PUT", r"/residency-receipts\?", (SUBMIT,), service=BLOB),
    Call("make the experiment", "POST", r"/history/v1\.0/.*/experiments/[^/]+$", (SUBMIT,)),
    Call("tag what all images share", "PUT", r"/manifests/serving-[0-9a-f]+$", (PREPARE,), service=REGISTRY),
    Call("take over a layer of the base", "POST", r"/blobs/uploads/\?mount=", (BUILD,), service=REGISTRY),
)


def unknown(service: str, requests: list[tuple[str, str]]) -> list[str]:
    """Return the requests that no kind of call stands for, each once.

    :param service: who was asked.
    :param requests: method and path of each.
    """
    known = [call for call in CALLS + ONCE if call.service == service]
    # Without the query, which may carry a signature.
    strange = {
        f"{how} {path.partition('?')[0]}"
        for how, path in requests
        if not any(call.matches(how, path) for call in known)
    }
    return sorted(f"{service}: {request}" for request in strange)
