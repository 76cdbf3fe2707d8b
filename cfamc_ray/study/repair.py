"""Damaged files of a study: what they are, and what a driver does about them before it goes on.

A damaged file is renamed, never removed. What it held is made anew: a derived file is written again, a trial without
its rows is trained again, from its checkpoint where that is whole. All else is kept.
"""

import zipfile
from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

from cfamc_ray.files import set_aside
from cfamc_ray.study.content import DamagedFile, damage_of, json_object
from cfamc_ray.study.images import NAME as IMAGES
from cfamc_ray.study.records import ENVIRONMENT, TrialFolder, trial_folders

Points = Callable[[], Mapping[int, Mapping[str, Any]]]
"""Points of trials by number, as something other than the trials' folders knows them."""


def damaged_files(study: Path) -> list[DamagedFile]:
    """The files of a study's folder that are there and cannot be read; weights and checkpoints among them."""
    of_study = [damage_of(study / name, json_object) for name in (ENVIRONMENT, IMAGES)]
    of_trials = chain.from_iterable(_damaged_in(folder) for folder in trial_folders(study))
    return [found for found in (*of_study, *of_trials) if found]


def _damaged_in(folder: TrialFolder) -> Iterator[DamagedFile | None]:
    yield from folder.damaged()
    yield _damaged_checkpoint(folder.checkpoint)
    yield _damaged_encoder(folder.encoder)


def _damaged_checkpoint(path: Path) -> DamagedFile | None:
    """torch.save writes a zip archive, which keeps a checksum of each part."""
    if not path.is_file():
        return None
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
    except (zipfile.BadZipFile, EOFError, OSError) as error:
        return DamagedFile(path, str(error))
    return DamagedFile(path, f"{broken} in it is broken") if broken else None


def _damaged_encoder(path: Path) -> DamagedFile | None:
    """A safetensors file: the length of its header (8 bytes), the header as JSON, and the tensors it lists."""
    if not path.is_file():
        return None
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json_object(file.read(length).decode() if length < path.stat().st_size else "")
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        whole = 8 + length + max(ends) == path.stat().st_size
    except (ValueError, KeyError, TypeError, IndexError):
        whole = False
    return None if whole else DamagedFile(path, "not a whole safetensors file")


def repair(study: Path, points: Points) -> list[str]:
    """Set damaged files aside, so that the study can go on. Only the driver that holds the study may do so.

    Args:
        study: its folder.
        points: is asked where a trial's own note of its point is lost.

    Returns:
        what was done, a sentence for each damaged file.
    """
    done = [_set_aside(found) for found in damaged_files(study)]
    lost = [folder for folder in trial_folders(study) if not folder.trial_file.exists() and _holds_anything(folder)]
    known = points() if lost else {}
    for folder in lost:
        if folder.number in known:
            folder.open(known[folder.number])
            done.append(f"{folder.trial_file}: written again")
        else:
            kept = set_aside(folder.path)
            done.append(f"{folder.path}: nothing tells its point any more; kept as {kept.name}")
    return done


def _set_aside(found: DamagedFile) -> str:
    kept = set_aside(found.path)
    return f"{found.path}: damaged ({found.why}); kept as {kept.name}{_CONSEQUENCES.get(found.path.name, '')}"


_CONSEQUENCES = {
    "epochs.jsonl": ", and the trial is trained again",
    "outcome.json": ", and the trial goes on",
    "checkpoint.pt": ", and the trial begins anew",
    "encoder.safetensors": "; python -m cfamc_ray.train --trial trains the trial anew",
    "test.json": ", and the encoder is tested again",
}


def _holds_anything(folder: TrialFolder) -> bool:
    files = (folder.epochs_file, folder.outcome_file, folder.checkpoint, folder.encoder)
    return any(path.exists() for path in files)
