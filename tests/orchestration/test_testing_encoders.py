"""What a confirmation notes of an encoder; the whole of it runs in `test_study_runs.py`."""

import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from ray.exceptions import RayTaskError, WorkerCrashedError

from cfamc_ray.config.evaluation import EvaluationConfig
from cfamc_ray.config.heads import HeadConfig
from cfamc_ray.config.study import StudyConfig
from cfamc_ray.data.splits import describe_test
from cfamc_ray.method.encoder import save_encoder
from cfamc_ray.orchestration import confirmation
from cfamc_ray.orchestration.confirmation import test_encoder as measure_encoder
from cfamc_ray.orchestration.growing import SizeWatch
from cfamc_ray.orchestration.packing import pack
from cfamc_ray.store.records import TrialFolder
from cfamc_ray.store.tested import PointTest
from cfamc_ray.training.trainer import initial_encoder

STUDY = StudyConfig.model_validate(
    {
        "name": "fresh",
        "confirm": {"images": 40, "attacked_images": 20, "attacks": ["pgd20"]},
        "trial": {
            "data": {
                "name": "digits",
                "image_size": 8,
                "probe_images": 100,
                "split_seed": 4,
                "pretrain_images": 100,
                "validation_images": 0,
            },
            "crops": {"size": 8},
            "encoder": {"width": 4, "prefeature_width": 8, "hidden_width": 4, "embedding_width": 4},
        },
    }
)


def measured_initially(study: StudyConfig, folder: Path, l2: float | None) -> PointTest:
    """What is noted of the encoder with which the study's trials begin."""
    trial_folder = TrialFolder(folder, 0)
    trial_folder.open({})
    save_encoder(trial_folder.encoder, initial_encoder(study.trial), study.trial.encoder)
    threads = torch.get_num_threads()
    try:
        return measure_encoder(pack(study, ()), folder, 0, l2, [])
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("l2", [None, 0.3])
def test_beside_accuracies_it_is_noted_which_test_images_they_are_of(l2: float | None, tmp_path: Path) -> None:
    tested = measured_initially(STUDY, tmp_path, l2)
    assert (tested.l2, tested.problem) == (l2, "")
    assert STUDY.confirm is not None
    assert tested.protocol == STUDY.confirm.protocol(STUDY.trial.evaluation, l2).digest
    assert tested.sample == describe_test(STUDY.trial.data, images=40)
    assert list(tested.accuracies) == ["none", "pgd", "pgd_margin"]
    counts = zip(tested.accuracies.values(), (40, 20, 20), strict=True)
    assert all(round(accuracy * count, 9) % 1 == 0 for accuracy, count in counts)


def test_the_head_is_the_searchs_probe_with_the_strength_of_the_operating_point() -> None:
    assert STUDY.confirm is not None
    evaluation = EvaluationConfig.model_validate({"head": {"features": "backbone", "tolerance": 1e-3, "iterations": 9}})
    assert STUDY.confirm.protocol(evaluation, 0.3).head == HeadConfig(
        features="backbone", l2=(0.3,), tolerance=1e-3, iterations=9
    )
    assert STUDY.confirm.protocol(evaluation).head == HeadConfig(l2=(1e-2,))


def test_what_was_measured_is_kept_where_other_tests_fail_or_are_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(3):
        TrialFolder(tmp_path, number).open({})
    results = {
        0: RayTaskError("test_encoder", "Traceback\n  a plugin", ValueError("a plugin")),
        1: WorkerCrashedError(),
        2: PointTest(0.3, {"images": 40}, {"none": 0.5}),
    }

    def get(number: int) -> Any:
        if isinstance(result := results[number], Exception):
            raise result
        return result

    remote = SimpleNamespace(remote=lambda packed, folder, number, l2, sources: number)
    ray = SimpleNamespace(remote=lambda **_: lambda test: remote, get=get)
    monkeypatch.setattr(confirmation, "ray", ray)
    monkeypatch.setattr(SizeWatch, "wait", lambda _, waiting: waiting[0])
    monkeypatch.setattr(confirmation, "share_sources", lambda study: [])
    monkeypatch.setattr(confirmation, "running_ray", lambda *_: nullcontext(sys.stdout))
    with pytest.raises(RayTaskError, match="a plugin"):
        confirmation._test(STUDY, tmp_path, {0: [0.3], 1: [0.3], 2: [0.3]}, None, "normal")
    assert [list(TrialFolder(tmp_path, number).read_tests()) for number in range(3)] == [[], [], [0.3]]
    assert capsys.readouterr().out.splitlines() == [
        "testing trial_00000 with L2 0.3 failed, 2 to go",
        "trial_00001 with L2 0.3 was not tested: its process was killed from outside, as the system does where memory "
        "runs out; --resume tests it again",
        "tested trial_00002 with L2 0.3, 0 to go",
    ]


def test_a_transfer_is_tested_with_the_probe_images_of_the_search(tmp_path: Path) -> None:
    """Its own number of pretraining images says nothing."""
    judges = {"name": "digits", "image_size": 8, "probe_images": 100, "validation_images": 100}
    tree = STUDY.model_dump(mode="json", exclude_unset=True)
    tree["trial"]["evaluation"] = {"transfer": judges}
    study = StudyConfig.model_validate(tree)
    tested = measured_initially(study, tmp_path, None)
    assert list(tested.accuracies) == ["none", "pgd", "pgd_margin"]
