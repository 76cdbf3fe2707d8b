"""Earlier studies that a study learns from: their records lie in its own folder, so it can be moved and resumed."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from cfamc_ray.config.study import StudyConfig
from cfamc_ray.store.copies import copy_records
from cfamc_ray.store.layout import PRIOR, STUDY
from cfamc_ray.store.records import TrialRecord, read_config, read_trials
from cfamc_ray.store.tables import Column

DRAFT = "draft"
"""Name of the folder of a copy that is not complete."""

RANKING = (
    Column("study"),
    Column("trials", "its trials"),
    Column("objective"),
    Column("compared", "trials of this study"),
    Column("tau", "Kendall's τ"),
)
"""Columns of prior.csv: how well each earlier study alone ranks the study's trials."""


class EarlierStudy(NamedTuple):
    """A study from which another one learns."""

    name: str
    """Name of its folder in the folder of the study that learns from it."""
    config: StudyConfig
    records: Sequence[TrialRecord]


def copy_earlier(folder: Path, sources: Sequence[str]) -> None:
    """Copy the records of earlier studies into the folder of a study, unless they are there already.

    Args:
        folder: folder of the study that learns from them.
        sources: their folders, in the order of `search.prior`.

    Raises:
        InputError: if one of them holds no study.
    """
    for number, source in enumerate(map(Path, sources), start=1):
        if not list((folder / PRIOR).glob(f"{number}_*")):
            config = read_config(source)
            target = folder / PRIOR / f"{number}_{config.name}"
            draft = target.with_name(DRAFT)
            shutil.rmtree(draft, ignore_errors=True)
            copy_records(source, draft, config)
            draft.rename(target)


def read_earlier(folder: Path) -> list[EarlierStudy]:
    """The earlier studies in the folder of a study, by name."""
    found = sorted(path.parent for path in (folder / PRIOR).glob(f"*/{STUDY}") if path.parent.name != DRAFT)
    return [EarlierStudy(path.name, read_config(path), read_trials(path)) for path in found]
