"""Checks before a study begins or is resumed: its folder, its images, a single driver."""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from cfamc_ray.config.errors import InputError
from cfamc_ray.config.reading import Config
from cfamc_ray.config.study import StudyConfig
from cfamc_ray.config.trial import TrialConfig
from cfamc_ray.space.search_space import SearchSpace
from cfamc_ray.store.cells import damaged_cells
from cfamc_ray.store.images import Digests, check_same, data_of
from cfamc_ray.store.layout import STUDY
from cfamc_ray.store.lock import only_driver
from cfamc_ray.store.records import TrialRecord, damaged_records, read_config, read_trials
from cfamc_ray.store.repair import set_damaged_aside
from cfamc_ray.store.stop_reason import StopReason

logger = logging.getLogger(__name__)


def check_folder(
    config: StudyConfig,
    folder: Path,
    *,
    resume: bool,
    over: Callable[[Sequence[TrialRecord]], StopReason | None] | None = None,
) -> bool:
    """Return whether a study is finished, and check that an unfinished one may begin or resume in its folder.

    Args:
        config: config of the study.
        folder: folder of the study.
        resume: whether an unfinished study is resumed.
        over: function that gives the reason to start no further trial; by default `budget.trials` have begun.

    Raises:
        InputError: if the folder holds another study, an unfinished one without `resume`, or none to resume.
    """
    records, damaged = read_trials(folder), damaged_records(folder)
    if not records and not damaged and not (folder / STUDY).exists():
        if resume:
            raise InputError(f"{folder}: there is nothing to resume; leave out --resume to begin")
        return False
    different = _different(config, folder, records)
    if different:
        raise InputError(
            f"{folder}: belongs to a study of another space (different: {', '.join(different)}); "
            "name another folder with --out, or another study with --set name=NAME"
        )
    ended = sum(record.ended for record in records)
    spent = over(records) is not None if over else len(records) >= config.budget.trials
    finished = not damaged and ended == len(records) and spent
    if (records or damaged) and not finished and not resume:
        remark = f" (damaged or missing: {', '.join(str(file.path) for file in damaged)})" if damaged else ""
        raise InputError(
            f"{folder}: holds this study with {ended} of {config.budget.trials} trials ended{remark}; "
            "re-run with --resume to resume it, or name another folder with --out"
        )
    return finished


def check_data(config: Config, trials: Iterable[TrialConfig], *folders: Path) -> Digests:
    """Check and download the data before any trial trains, and warn if sizes of crops and images do not match.

    Args:
        config: config of the study.
        trials: trials whose images are checked.
        folders: folders of studies that must have the same images.

    Returns:
        Digests of the images that all trials share, to be recorded with the study.

    Raises:
        InputError: if a trial's images are missing, too few, invalid, or differ from those of a folder.
    """
    from cfamc_ray.cost.work import image_side, scale_remark  # noqa: PLC0415
    from cfamc_ray.data.content import content_digest  # noqa: PLC0415 (torch is slow to import, and not needed above)
    from cfamc_ray.data.splits import load_splits  # noqa: PLC0415

    checked = list(trials)
    for data, judged_on in dict.fromkeys((trial.data, trial.judged_on) for trial in checked):
        load_splits(data, judged_on=judged_on)
    for trial in checked:
        side, patch = image_side(trial.judged_on), trial.encoder.patch
        if side % patch:
            raise InputError(
                f"{trial.judged_on.location or trial.judged_on.name}: its images of {side}x{side} pixels are judged "
                f"whole, and do not divide into the patches of {patch} pixels of this encoder: resize them, or choose "
                "another encoder"
            )
    for remark in dict.fromkeys(scale_remark(trial.crops.size, trial.judged_on) for trial in checked):
        if remark:
            logger.warning("warning: %s", remark)
    digests = {key: content_digest(data) for key, data in data_of(config).items()}
    for folder in folders:
        check_same(folder, digests, config=config)
    return digests


def check_loggers(config: StudyConfig) -> None:
    """Check that the packages of the loggers are installed.

    Raises:
        InputError: if one is not.
    """
    for name in config.loggers:
        found = find_spec(name)
        if found is None or found.origin is None:  # a mere folder of this name has no origin
            raise InputError(
                f"loggers: {name} is not installed: pip install 'cfamc_ray[{name}]', or leave it out of loggers"
            )


@contextmanager
def driving(folder: Path) -> Iterator[None]:
    """Lock a study's folder as its only driver, and set aside damaged files.

    Args:
        folder: folder of the study, or of a scaling study's cells; created if missing.

    Raises:
        InputError: as `only_driver`.
    """
    with only_driver(folder):
        for line in set_damaged_aside(folder):
            logger.warning(line)
        yield


def warn_of_damage(study: Path) -> None:
    """Warn about damaged files of trials or cells, which are left out; the next driver sets them aside.

    Args:
        study: folder of the study, or of a scaling study's cells.
    """
    for file in [*damaged_records(study), *damaged_cells(study)]:
        if file.path.name == STUDY:  # without this file nothing is read
            continue
        logger.warning("warning: %s: damaged or missing (%s), and left out", file.path, file.why)


def _different(config: StudyConfig, folder: Path, records: Sequence[TrialRecord]) -> list[str]:
    """Keys in which a folder's study differs; if its study.yaml is lost, its trials are compared with the space."""
    try:
        begun_with = read_config(folder).identity()
    except InputError:
        return [] if all(map(SearchSpace(config).contains, (record.point for record in records))) else ["space"]
    return sorted(_differences(begun_with, config.identity()))


def _differences(one: Any, other: Any, key: str = "") -> list[str]:
    if isinstance(one, dict) and isinstance(other, dict) and key != "space":
        names = dict.fromkeys([*one, *other])
        return [
            different
            for name in names
            for different in _differences(one.get(name), other.get(name), f"{key}.{name}" if key else name)
        ]
    return [] if one == other else [key]
