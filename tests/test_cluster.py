"""Two machines, as far as one can stand for both: a Ray cluster of two nodes, one of which is lost."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from processes import Command
from ray.cluster_utils import Cluster

from cfamc_ray.config.yaml12 import dump_yaml
from cfamc_ray.store.records import read_trials

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

EPOCHS = 6
SPACE = {
    "name": "cluster",
    "budget": {"trials": 1},
    "resources": {"trials_at_once": 1, "workers_per_trial": 2, "cpus_per_worker": 1, "restarts": 3},
    "trial": {
        "data": {"name": "digits", "pretrain_images": 200, "probe_images": 60, "validation_images": 100},
        "encoder": {"width": 4, "prefeature_width": 16, "hidden_width": 16, "embedding_width": 8},
        "pretraining": {"batch_images": 20, "epochs": EPOCHS, "precision": "float32"},
        "evaluation": {"attack": {"steps": 2}, "attacked_images": 50},
    },
    "space": {"crops.views": {"choice": [4]}},
}
STEPS = {
    "name": "steps",
    "trial": SPACE["trial"],
    "system": {"grid": {"workers": [2]}, "minibatches": 1, "repeats": 1},
}


@pytest.fixture
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """A head without CPUs, on which the study's own process runs; its other arguments are the test's parameter."""
    arguments = {"num_cpus": 0, "include_dashboard": False, **getattr(request, "param", {})}
    cluster = Cluster(initialize_head=True, head_node_args=arguments)
    try:
        yield cluster
    finally:
        cluster.shutdown()


@pytest.mark.parametrize(
    "cluster",
    [{}, {"memory": 0}],
    indirect=True,
    ids=["controller anywhere", "controller on that node"],  # its process asks for a byte of memory
)
def test_a_trial_of_two_workers_goes_on_elsewhere_when_its_node_is_lost(cluster: Cluster, tmp_path: Path) -> None:
    space = tmp_path / "cluster.yaml"
    space.write_text(dump_yaml(SPACE))
    first = cluster.add_node(num_cpus=2)
    cluster.wait_for_nodes()
    command = Command(space, "--address", cluster.address, out=tmp_path / "shared")
    rows = 0
    while rows < 2:
        assert command.running(), command.wait()[1]
        time.sleep(0.2)
        rows = sum(len(record.rows) for record in read_trials(tmp_path / "shared" / "cluster"))
    cluster.remove_node(first, allow_graceful=False)
    cluster.add_node(num_cpus=2)
    (halted,) = read_trials(tmp_path / "shared" / "cluster")
    assert halted.status == "running"
    code, output = command.wait()
    assert code == 0, output
    (record,) = read_trials(tmp_path / "shared" / "cluster")
    assert record.status == "finished"
    assert [row["epoch"] for row in record.rows] == list(range(1, EPOCHS + 1))
    *kept, last = halted.rows
    assert record.rows[: len(kept)] == kept, "what was trained before is kept"
    assert record.rows[len(kept)]["loss"] == last["loss"], (
        "the last epoch is repeated if its checkpoint was not written"
    )


def test_workers_of_a_cell_meet_across_nodes(cluster: Cluster, tmp_path: Path) -> None:
    space = tmp_path / "steps.yaml"
    space.write_text(dump_yaml(STEPS))
    for _ in range(2):
        cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    words = ["--out", str(tmp_path / "runs"), "--part", "system", "--address", cluster.address]
    command = [sys.executable, "-m", "cfamc_ray.scale", "--space", str(space), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "1 of 1 cells of steps have been measured" in done.stdout, done.stderr
    assert done.returncode == 1, "one cell makes no model"
    (found,) = json.loads((tmp_path / "runs" / "steps" / "fits.json").read_text())["communication"]
    assert found["workers"] == 2
    assert found["seconds_per_byte"] > 0
