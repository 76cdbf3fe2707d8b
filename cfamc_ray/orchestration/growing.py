"""Wait for an autoscaling cluster to start the machines that a study needs."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import ray
from ray.autoscaler.sdk import request_resources
from ray.core.generated.autoscaler_pb2 import AutoscalingState, GetClusterStatusReply

from cfamc_ray.config.errors import InputError
from cfamc_ray.config.resources import ResourceConfig

WATCH_SECONDS = 5.0
"""Seconds of a wait after which the cluster is looked at."""
LOOK_SECONDS = 1.0
UNAWARE = 3
"""Number of versions of the cluster's state after the request that may still be from before it."""
SILENT_SECONDS = 30.0
"""Seconds without a report of an autoscaler (usual interval: 5 s) after which a cluster counts as having none."""


def require(resources: ResourceConfig, *, cluster: bool, say: Callable[[str], object]) -> None:
    """Ensure the CPU cores and GPUs that a study needs at once; wait for an autoscaling cluster to start machines.

    Args:
        resources: required resources.
        cluster: whether Ray runs on a cluster, which may grow.
        say: called with a message for a person before a wait.

    Raises:
        InputError: if there are too few: immediately if no more can come, else after `resources.wait_minutes`.
    """
    if not (lacking := _lacking(resources)):
        return
    if not cluster:
        raise InputError(lacking)
    worker = {"CPU": float(resources.cpus_per_worker), "GPU": float(resources.gpus_per_worker)}
    bundle = {name: amount for name, amount in worker.items() if amount}
    before = _autoscaling_state().last_seen_cluster_resource_state_version
    request_resources(bundles=[bundle] * (resources.trials_at_once * resources.workers_per_trial))
    try:
        _wait(resources, bundle, before, say)
    finally:
        request_resources(bundles=[])  # from here on the trials request resources themselves


def _wait(resources: ResourceConfig, bundle: Mapping[str, float], before: int, say: Callable[[str], object]) -> None:
    started, announced = time.monotonic(), False
    while lacking := _lacking(resources):
        waited, state = time.monotonic() - started, _autoscaling_state()
        # The version increases with each query; a report may be from before the request.
        answered = state.last_seen_cluster_resource_state_version > before + UNAWARE
        if answered and _refused(state, bundle):
            raise InputError(f"{lacking}; the cluster can start no machine for them")
        if waited > SILENT_SECONDS and not answered:
            raise InputError(f"{lacking}; the cluster does not start machines by itself")
        if waited > 60 * resources.wait_minutes:
            raise InputError(f"{lacking}; waited for {resources.wait_minutes:g} minutes (resources.wait_minutes)")
        if answered and not announced:
            announced = True
            say(f"Waiting up to {resources.wait_minutes:g} minutes for the cluster to grow.")
        time.sleep(LOOK_SECONDS)


def _refused(state: AutoscalingState, bundle: Mapping[str, float]) -> bool:
    """Whether the autoscaler reports that no machine can satisfy this request, rather than an earlier one."""
    constraints = state.infeasible_cluster_resource_constraints
    requests = (request for constraint in constraints for request in constraint.resource_requests)
    return any(dict(each.request.resources_bundle) == bundle for each in requests)


def _autoscaling_state() -> AutoscalingState:
    """The last report of the cluster's autoscaler; empty if there is none."""
    address = ray.get_runtime_context().gcs_address
    reply = GetClusterStatusReply()
    reply.ParseFromString(ray._raylet.GcsClient(address).get_cluster_status(timeout_s=10))
    return reply.autoscaling_state


def _lacking(resources: ResourceConfig) -> str:
    """Description of missing resources and the remedy; empty if there are enough."""
    for kind, each, needed, there in _shortages(resources):
        return (
            f"resources: {resources.trials_at_once} trials at once x {resources.workers_per_trial} workers x "
            f"{each:g} {kind}s need {needed:g} {kind}s, but there are {there:g}: lower "
            f"trials_at_once, workers_per_trial or {kind.lower()}s_per_worker"
        )
    return ""


class SizeWatch:
    """Says when a cluster that loses machines becomes too small for a piece of work, and large enough again.

    Args:
        resources: resources of each worker.
        workers: number of workers of the work.
        say: called with a line for a person.
    """

    def __init__(self, resources: ResourceConfig, workers: int, say: Callable[[str], object]) -> None:
        self._resources = resources.model_copy(update={"trials_at_once": 1, "workers_per_trial": workers})
        self._say, self._line = say, ""

    def look(self) -> None:
        """Compare what is there with what is needed; nothing is said twice in a row."""
        line = next(
            (
                f"The cluster has {there:g} {kind}s left, but {needed:g} are needed at once: waiting for machines."
                for kind, _, needed, there in _shortages(self._resources)
            ),
            "",
        )
        if line != self._line:
            self._line = line
            self._say(line or "The cluster is large enough again.")

    def wait(self, references: Sequence[ray.ObjectRef]) -> ray.ObjectRef:
        """The first of Ray's results that is there."""
        while True:
            done, _ = ray.wait(list(references), timeout=WATCH_SECONDS)
            if done:
                return done[0]
            self.look()


def _shortages(resources: ResourceConfig) -> Iterator[tuple[str, float, float, float]]:
    """Kinds of resources of which there are too few: the kind, the amount per worker, in all, and in the cluster."""
    there: Mapping[str, float] = ray.cluster_resources()
    for kind, each, needed in (
        ("CPU", resources.cpus_per_worker, resources.cpus_at_once),
        ("GPU", resources.gpus_per_worker, resources.gpus_at_once),
    ):
        if needed > there.get(kind, 0):
            yield kind, each, needed, there.get(kind, 0)
