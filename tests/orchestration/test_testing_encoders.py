"""What a confirmation notes of an encoder; the whole of it runs in `test_study_runs.py`."""

import json
from pathlib import Path

import torch

from cfamc_ray.config.study import StudyConfig
from cfamc_ray.data.splits import describe_test
from cfamc_ray.method.encoder import save_encoder
from cfamc_ray.orchestration.confirmation import test_encoder as measure_encoder
from cfamc_ray.orchestration.packing import pack
from cfamc_ray.store.records import TrialFolder
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


def test_beside_accuracies_it_is_noted_which_test_images_they_are_of(tmp_path: Path) -> None:
    folder = TrialFolder(tmp_path, 0)
    folder.open({})
    save_encoder(folder.encoder, initial_encoder(STUDY.trial), STUDY.trial.encoder)
    threads = torch.get_num_threads()
    try:
        assert measure_encoder(pack(STUDY, ()), tmp_path, 0, []) == ""
    finally:
        torch.set_num_threads(threads)
    noted = json.loads((folder.path / "test.json").read_text())
    assert noted.pop("test_sample") == describe_test(STUDY.trial.data, images=40)
    assert list(noted) == ["none", "pgd", "pgd_margin"]
    assert all(round(noted[name] * count, 9) % 1 == 0 for name, count in zip(noted, (40, 20, 20), strict=True))
