"""A study whose driver and workers are killed again and again ends as one that nothing disturbed."""

import os
import random
import time
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState
from processes import Command

from cfamc_ray.config.yaml12 import dump_yaml
from cfamc_ray.search.storage import open_storage
from cfamc_ray.store.records import TrialRecord, read_trials

pytestmark = [pytest.mark.long, pytest.mark.slow, pytest.mark.timeout(1800)]

KILLS = 6
SPACE = {
    "name": "fault",
    "budget": {"trials": 12},
    "resources": {"trials_at_once": 1, "cpus_per_worker": 1, "restarts": 100},
    "search": {"sampler": "front", "startup_trials": 4, "seed": 3, "mo_asha": {"rungs": [0.25, 0.5], "keep": 0.6}},
    "trial": {
        "data": {
            "name": "digits",
            "image_size": 16,
            "pretrain_images": 400,
            "probe_images": 60,
            "validation_images": 100,
        },
        "crops": {"size": 16},
        "encoder": {"width": 4, "prefeature_width": 16, "hidden_width": 16, "embedding_width": 8},
        "pretraining": {"batch_images": 20, "epochs": 6, "precision": "float32"},
        "evaluation": {"attack": {"steps": 2}, "attacked_images": 50},
    },
    "space": {"crops.views": {"int": [2, 6]}, "perturbation.epsilon": {"float": [0.01, 0.1]}},
}


def outcome(record: TrialRecord) -> tuple[object, ...]:
    """What must not depend on kills: all but seconds and memory."""
    shown = [[row[name] for name in ("epoch", "clean_accuracy", "robust_accuracy", "loss")] for row in record.rows]
    return record.number, dict(record.point), record.status, record.reason, shown


def ended(records: list[TrialRecord]) -> dict[int, TrialRecord]:
    return {record.number: record for record in records if record.ended}


def test_kills_at_random_moments_lose_and_repeat_nothing(tmp_path: Path) -> None:
    space = tmp_path / "fault.yaml"
    space.write_text(dump_yaml(SPACE))
    code, output = Command(space, out=tmp_path / "quiet").wait()
    assert code == 0, output
    undisturbed = read_trials(tmp_path / "quiet" / "fault")

    source = random.Random(int(os.environ.get("CFAMC_FAULT_SEED", "0")))  # noqa: S311 (no secret)
    study = tmp_path / "runs" / "fault"
    drivers = workers = 0
    done: dict[int, TrialRecord] = {}
    while True:
        command = Command(space, *(["--resume"] if read_trials(study) else []), out=tmp_path / "runs")
        rows = sum(len(record.rows) for record in read_trials(study))
        training, patience = source.random() < 0.7, time.monotonic() + 300
        # Most kills come while a trial trains, the others while Ray starts.
        while training and sum(len(record.rows) for record in read_trials(study)) == rows and command.running():
            assert time.monotonic() < patience, "no epoch within 5 minutes"
            time.sleep(0.02)
        time.sleep(source.uniform(0, 3 if training else 12))
        if source.random() < 0.3:
            workers += command.kill("ray::OneWorkerTrial") + command.kill("ray::ResourceTrainable") > 0
            time.sleep(source.uniform(0, 4))
        if command.running() and drivers < KILLS:
            command.kill()
            command.wait()
            drivers += 1
        else:
            code, output = command.wait()
            assert code == 0, output
            break
        now = ended(read_trials(study))
        assert done.items() <= now.items(), "a finished trial was lost or trained again"
        done = now
    disturbed = read_trials(study)
    print(f"{drivers} drivers and {workers} workers killed")
    assert done.items() <= ended(disturbed).items()
    assert list(map(outcome, disturbed)) == list(map(outcome, undisturbed))
    stored = optuna.load_study(study_name="fault", storage=open_storage(study)).trials
    expected = {"finished": TrialState.COMPLETE, "stopped": TrialState.PRUNED}
    assert [trial.state for trial in stored] == [expected[record.status] for record in disturbed]
    assert drivers >= KILLS, "the study was over before all kills"
