"""A cluster that lacks what a study needs: waited for while it may grow, refused where it cannot."""

from collections.abc import Sequence
from typing import Any

import pytest
from ray.core.generated.autoscaler_pb2 import AutoscalingState

from cfamc_ray.config.errors import InputError
from cfamc_ray.config.resources import ResourceConfig
from cfamc_ray.orchestration import growing

TWO = ResourceConfig(trials_at_once=2)
LACKING = "resources: 2 trials at once x 1 workers x 1 CPUs need 2 CPUs, but there are 0: lower trials_at_once, "


def state(version: int, *infeasible: dict[str, float]) -> AutoscalingState:
    """What an autoscaler reports: up to which version of the cluster it looked, and what no machine would hold."""
    found = AutoscalingState(last_seen_cluster_resource_state_version=version)
    for bundle in infeasible:
        request = found.infeasible_cluster_resource_constraints.add().resource_requests.add()
        for name, amount in bundle.items():
            request.request.resources_bundle[name] = amount
    return found


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Stands for a cluster: its CPUs and its autoscaler's reports, second by second; the requests that were made."""
    now, requests = [0.0], list[list[dict[str, float]]]()

    def play(cpus: Sequence[float], reports: Sequence[AutoscalingState]) -> list[list[dict[str, float]]]:
        def at(values: Sequence[Any]) -> Any:
            return values[min(int(now[0]), len(values) - 1)]

        def ask(*, bundles: list[dict[str, float]]) -> None:
            requests.append(bundles)

        monkeypatch.setattr("ray.cluster_resources", lambda: {"CPU": at(cpus)})
        monkeypatch.setattr(growing, "_autoscaling_state", lambda: at(reports))
        monkeypatch.setattr(growing, "request_resources", ask)
        monkeypatch.setattr("time.monotonic", lambda: now[0])
        monkeypatch.setattr("time.sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
        return requests

    return play


def test_a_wait_says_once_why_it_is_long(monkeypatch: pytest.MonkeyPatch) -> None:
    there, said = iter([{"CPU": 1.0}, {"CPU": 1.0}, {"CPU": 2.0}]), list[str]()
    answers: Any = iter([([], ["a"]), ([], ["a"]), ([], ["a"]), (["a"], [])])
    monkeypatch.setattr("ray.cluster_resources", lambda: next(there))
    monkeypatch.setattr("ray.wait", lambda *_, timeout: next(answers))
    assert growing.SizeWatch(ResourceConfig(trials_at_once=9), 2, said.append).wait(["a"]) == "a"
    assert said == [
        "The cluster has 1 CPUs left, but 2 are needed at once: waiting for machines.",
        "The cluster is large enough again.",
    ]


def test_what_is_there_is_taken_without_a_word(cluster: Any) -> None:
    requests, lines = cluster([2.0], [state(0)]), list[str]()
    growing.require(TWO, cluster=True, say=lines.append)
    assert (requests, lines) == ([], [])


def test_one_that_grows_is_waited_for_and_asked_for_what_runs_at_once(cluster: Any) -> None:
    reports = [state(version) for version in range(0, 100, 2)]
    requests, lines = cluster([0.0] * 40 + [2.0], reports), list[str]()
    growing.require(TWO, cluster=True, say=lines.append)
    assert lines == ["Waiting up to 10 minutes for the cluster to grow."]
    assert requests == [[{"CPU": 1.0}] * 2, []]


def test_what_no_machine_would_hold_is_refused_once_the_autoscaler_has_looked(cluster: Any) -> None:
    reports = [state(10, {"GPU": 1.0}), state(12, {"GPU": 1.0}), state(14, {"CPU": 1.0})]
    requests = cluster([0.0], reports)
    with pytest.raises(InputError, match="can start no machine for them") as refused:
        growing.require(TWO, cluster=True, say=print)
    assert str(refused.value).startswith(LACKING)
    assert requests[-1] == [], "it is asked for nothing any more"


def test_what_was_asked_for_before_says_nothing_of_this(cluster: Any) -> None:
    reports = [state(version, {"CPU": 1.0, "GPU": 1.0}) for version in range(0, 40, 2)]
    cluster([0.0] * 10 + [2.0], reports)
    growing.require(TWO, cluster=True, say=print)


@pytest.mark.parametrize(
    ("minutes", "reports", "said"),
    [
        (10.0, [state(0)], "; the cluster does not start machines by itself"),
        (2.0, [state(version) for version in range(0, 400, 2)], "; waited for 2 minutes (resources.wait_minutes)"),
    ],
    ids=["no autoscaler", "too slow"],
)
def test_it_is_given_up(minutes: float, reports: Sequence[AutoscalingState], said: str, cluster: Any) -> None:
    cluster([0.0], reports)
    with pytest.raises(InputError) as refused:
        growing.require(TWO.model_copy(update={"wait_minutes": minutes}), cluster=True, say=print)
    assert str(refused.value).endswith(said)


def test_a_machine_alone_does_not_grow(cluster: Any) -> None:
    requests = cluster([0.0], [state(0)])
    with pytest.raises(InputError, match="need 2 CPUs, but there are 0"):
        growing.require(TWO, cluster=False, say=print)
    assert requests == []
