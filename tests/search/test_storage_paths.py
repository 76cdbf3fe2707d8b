"""Optuna's storage, which lies in the study's folder whatever that is called."""

from pathlib import Path

import optuna
from optuna.distributions import BaseDistribution, IntDistribution

from cfamc_ray.config.study import StudyConfig
from cfamc_ray.search.storage import open_storage, repair_storage, stored_points
from cfamc_ray.store.layout import STORAGE

STORAGES = [
    "a b",
    "a%20b",
    "a+b",
    "50%",
    "a?mode=memory",
    "a#b",
    "{a}",
    "${HOME}",
    "[a]",
    "é日",
    "'a\"",
    "-a",
    ":memory:",
    "~",
]
CONFIG = StudyConfig.model_validate({"name": "mine", "space": {"crops.views": {"int": [2, 40]}}})


def add_trial(folder: Path, views: int) -> None:
    study = optuna.create_study(study_name="mine", storage=open_storage(folder), load_if_exists=True)
    distributions: dict[str, BaseDistribution] = {"crops.views": IntDistribution(2, 40)}
    study.add_trial(optuna.create_trial(params={"crops.views": views}, distributions=distributions, value=0.5))


def test_each_folder_has_its_own(tmp_path: Path) -> None:
    for views, name in enumerate(STORAGES, start=2):
        (tmp_path / name).mkdir()
        add_trial(tmp_path / name, views)
    for views, name in enumerate(STORAGES, start=2):
        assert stored_points(CONFIG, tmp_path / name) == {0: {"crops.views": views}}
        assert repair_storage(CONFIG, tmp_path / name, []) == []
        assert [path.name for path in (tmp_path / name).iterdir()] == [STORAGE]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(STORAGES)
