"""A cluster that starts machines on demand: waited for as long as it grows, and refused where it will not."""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from processes import Command, kill_marked
from ray._private.services import get_node_ip_address
from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID

from cfamc_ray.config.yaml12 import dump_yaml
from cfamc_ray.study.records import read_trials

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

SPACE = {
    "name": "growing",
    "budget": {"trials": 2},
    "resources": {"trials_at_once": 2, "cpus_per_worker": 1},
    "trial": {
        "data": {
            "name": "digits",
            "image_size": 16,
            "pretrain_images": 100,
            "probe_images": 60,
            "validation_images": 40,
        },
        "crops": {"size": 16},
        "encoder": {"width": 4, "prefeature_width": 16, "hidden_width": 16, "embedding_width": 8},
        "pretraining": {"batch_images": 20, "epochs": 1, "precision": "float32"},
        "evaluation": {"attack_steps": 2, "attack_images": 20},
    },
    "space": {"crops.views": {"choice": [2, 3]}},
}
LACKING = "need 2 CPUs, but there are 0"


@pytest.fixture(params=["v1", "v2"])
def address(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A head without processors, whose autoscaler, of either version, may start one machine of two.

    Ray's AutoscalingCluster does the same, but would first end every Ray on this machine.
    """
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")  # else one with a token where this user has one
    temporary = Path(tempfile.mkdtemp(prefix="ray-"))  # short, for the paths of sockets
    with socket.socket() as free:
        free.bind(("", 0))
        address = f"{get_node_ip_address()}:{free.getsockname()[1]}"
    (temporary / "cluster.json").write_text(json.dumps(cluster_config(address)))
    mark = f"cfamc-test-{uuid.uuid4().hex}"
    environment = {
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        "RAY_FAKE_CLUSTER": "1",
        "RAY_enable_autoscaler_v2": str(int(request.param == "v2")),
        "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID,
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID,
        "CFAMC_TEST_MARK": mark,
    }
    words = ["--head", f"--port={address.rpartition(':')[2]}", "--num-cpus=0", "--object-store-memory=100000000"]
    words += [f"--autoscaling-config={temporary / 'cluster.json'}", f"--temp-dir={temporary / 'ray'}"]
    words += ["--include-dashboard=false", "--dashboard-agent-listen-port=0", "--disable-usage-stats"]
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", *words]
    try:
        done = subprocess.run(
            command, env={**os.environ, **environment}, capture_output=True, text=True, check=False, timeout=300
        )
        assert done.returncode == 0, done.stderr
        yield address
    finally:
        kill_marked(mark)
        shutil.rmtree(temporary, ignore_errors=True)


def cluster_config(address: str) -> dict[str, Any]:
    return {
        "cluster_name": "growing",
        "max_workers": 1,
        "provider": {
            "type": "external",
            "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
            "launch_multiple": True,
            "head_node_id": FAKE_HEAD_NODE_ID,
            "gcs_address": address,
        },
        "auth": {},
        "head_node_type": "ray.head.default",
        "available_node_types": {
            "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
            "pair": {"resources": {"CPU": 2, "object_store_memory": 10**8}, "node_config": {}, "max_workers": 1},
        },
    }


def test_it_is_waited_for_until_the_study_has_room_and_refused_where_no_machine_would_do(
    address: str, tmp_path: Path
) -> None:
    space = tmp_path / "growing.yaml"
    space.write_text(dump_yaml(SPACE))
    study = tmp_path / "runs" / "growing"

    code, output = Command(space, "--address", address, "--set", "resources.gpus_per_worker=1").wait()
    assert (code, read_trials(study)) == (2, []), output
    assert f"{LACKING}: lower" in output
    assert output.endswith("; the cluster starts no machines for them\n")
    assert "Waiting" not in output

    code, output = Command(space, "--address", address).wait()
    assert code == 0, output
    assert (
        f"Waiting up to 10 minutes for the cluster to grow: resources: 2 trials at once x 1 workers x 1 CPUs {LACKING}"
        in output
    )
    assert [record.status for record in read_trials(study)] == ["finished"] * 2

    code, output = Command(space, "--address", address, "--set", "resources.trials_at_once=3", "--trials", "3").wait()
    assert code == 2, output
    assert "need 3 CPUs, but there are 2: lower" in output
    assert output.endswith("; the cluster starts no machines for them\n")
