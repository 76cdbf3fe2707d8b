"""A cluster that lacks what a study needs: whether it will grow, and how long it is waited for."""

import json
import time
from collections.abc import Mapping
from typing import NamedTuple, TextIO

import ray
from ray._private.ray_constants import DEBUG_AUTOSCALING_STATUS
from ray.autoscaler.sdk import request_resources
from ray.core.generated.autoscaler_pb2 import GetClusterStatusReply
from ray.experimental.internal_kv import _internal_kv_get

from cfamc_ray.config.errors import InputError
from cfamc_ray.config.study import ResourceConfig

LOOK_SECONDS = 1.0
SILENT_SECONDS = 20.0
"""In which no machine is being started before a cluster counts as one that does not grow; its autoscaler, where there
is one, looks every 5 seconds."""


def require(resources: ResourceConfig, *, cluster: bool, person: TextIO) -> None:
    """Have the processors and GPUs that a study needs at once, waiting for a cluster that starts machines on demand.

    Args:
        resources: that have to be there.
        cluster: whether Ray runs on a cluster of its own, which may grow.
        person: is told of the wait.

    Raises:
        InputError: where there are too few: at once on this machine, within half a minute where no more are started,
            else after `resources.wait_minutes`.
    """
    if not (lacking := _lacking(resources)):
        return
    if not cluster:
        raise InputError(lacking)
    worker = {"CPU": float(resources.cpus_per_worker), "GPU": float(resources.gpus_per_worker)}
    bundle = {name: amount for name, amount in worker.items() if amount}
    request_resources(bundles=[bundle] * (resources.trials_at_once * resources.workers_per_trial))
    try:
        _wait(resources, person)
    finally:
        request_resources(bundles=[])  # from here on its trials ask for themselves


def _wait(resources: ResourceConfig, person: TextIO) -> None:
    started = growing = time.monotonic()
    told, reports = False, set[float]()
    while lacking := _lacking(resources):
        now, report = time.monotonic(), _last_report()
        reports.add(report.version)
        # The first is older than the request, and the second may have been begun before it.
        answered = len(reports) > 2
        if answered and report.growing:
            growing = now
            if not told:
                told = True
                limit = f"{resources.wait_minutes:g} minutes"
                print(f"Waiting up to {limit} for the cluster to grow: {lacking}", file=person, flush=True)
        if (answered and report.refused) or now - growing > SILENT_SECONDS:
            raise InputError(f"{lacking}; the cluster starts no machines for them")
        if now - started > 60 * resources.wait_minutes:
            raise InputError(f"{lacking}; waited for {resources.wait_minutes:g} minutes (resources.wait_minutes)")
        time.sleep(LOOK_SECONDS)


class _Report(NamedTuple):
    """What the cluster's autoscaler said last."""

    version: float = 0.0
    """Another one for each report; 0 where there is no autoscaler."""
    growing: bool = False
    """Whether machines are being started, or will be."""
    refused: bool = False
    """Whether no machine that it can start would do."""


def _last_report() -> _Report:
    reply = GetClusterStatusReply()
    address = ray.get_runtime_context().gcs_address
    reply.ParseFromString(ray._raylet.GcsClient(address).get_cluster_status(timeout_s=10))
    state = reply.autoscaling_state
    if version := state.last_seen_cluster_resource_state_version:
        refused = bool(state.infeasible_cluster_resource_constraints)
        return _Report(version, growing=not refused, refused=refused)
    of_v1 = json.loads(_internal_kv_get(DEBUG_AUTOSCALING_STATUS) or "{}")
    summary = of_v1.get("autoscaler_report") or {}
    return _Report(
        of_v1.get("time", 0.0), growing=bool(summary.get("pending_launches") or summary.get("pending_nodes"))
    )


def _lacking(resources: ResourceConfig) -> str:
    """What there is too little of, and what would be right; empty where there is enough."""
    there: Mapping[str, float] = ray.cluster_resources()
    needs = {
        "CPU": (resources.cpus_at_once, resources.cpus_per_worker),
        "GPU": (resources.gpus_at_once, resources.gpus_per_worker),
    }
    for kind, (needed, each) in needs.items():
        if needed > there.get(kind, 0):
            return (
                f"resources: {resources.trials_at_once} trials at once x {resources.workers_per_trial} workers x "
                f"{each:g} {kind}s need {needed:g} {kind}s, but there are {there.get(kind, 0):g}: lower "
                f"trials_at_once, workers_per_trial or {kind.lower()}s_per_worker"
            )
    return ""
