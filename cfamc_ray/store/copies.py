"""Copies of a study's records, for another study or for other people."""

import shutil
from collections.abc import Collection
from pathlib import Path

from cfamc_ray.config.study import StudyConfig
from cfamc_ray.store.records import trial_folders, write_config


def copy_records(study: Path, target: Path, config: StudyConfig, *, weights_of: Collection[int] = ()) -> None:
    """Write a study's config and the records of its trials into a new folder.

    Args:
        study: folder of the study.
        target: the new folder.
        config: config to write.
        weights_of: numbers of the trials whose encoder and linear probes are copied, too, if the study has kept them.
    """
    target.mkdir(parents=True)
    write_config(target, config)
    for trial in trial_folders(study):
        copy = target / trial.path.name
        copy.mkdir()
        weights = (trial.encoder, trial.heads) if trial.number in weights_of else ()
        for file in (trial.trial_file, trial.epochs_file, trial.outcome_file, trial.test_file, *weights):
            if file.is_file():
                shutil.copyfile(file, copy / file.name)
