"""Damaged files of a study: which they are, and how they are repaired before the study goes on.

A damaged file is renamed, never removed, and its content is made again: a derived file is written again, a trial
without its rows is trained again, from its checkpoint where that is whole. All else is kept.
"""

import zipfile
from collections.abc import Callable, Container, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

from cfamc_ray.host.files import remove_abandoned, set_aside
from cfamc_ray.store.cells import damaged_cells
from cfamc_ray.store.content import DamagedFile, damage_of, json_object
from cfamc_ray.store.images import noted_images
from cfamc_ray.store.layout import CHECKPOINT, ENCODER, ENVIRONMENT, EPOCHS, IMAGES, OUTCOME, STUDY, TEST, TRIAL, TRUNKS
from cfamc_ray.store.records import TrialFolder, damaged_records, trial_folders

Points = Callable[[], Mapping[int, Mapping[str, Any]]]
"""Gives the points of trials by number, from another source than the trials' folders."""


def damaged_files(study: Path) -> list[DamagedFile]:
    """The files of a study's folder that exist and cannot be read, weights and checkpoints included.

    Args:
        study: its folder, or that of a scaling study's cells.
    """
    derived = (damage_of(study / ENVIRONMENT, json_object), damage_of(study / IMAGES, noted_images))
    weights = chain.from_iterable(_damaged_weights(folder) for folder in trial_folders(study))
    every = [*damaged_records(study), *derived, *damaged_cells(study), *weights]
    return [file for file in every if file and file.path.exists()]


def _damaged_weights(folder: TrialFolder) -> Iterator[DamagedFile | None]:
    yield from map(_damaged_checkpoint, (folder.checkpoint, *sorted(folder.path.glob(TRUNKS))))
    yield damaged_encoder(folder.encoder)


def _damaged_checkpoint(path: Path) -> DamagedFile | None:
    """torch.save writes a zip archive, which keeps a checksum of each part."""
    if not path.is_file():
        return None
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
    except Exception as error:  # zipfile has no kind of its own for what a damaged header leads to
        return DamagedFile(path, str(error) or type(error).__name__)
    return DamagedFile(path, f"{broken} in it is broken") if broken else None


def damaged_encoder(path: Path) -> DamagedFile | None:
    """What is wrong with an encoder's file; None where it is whole or missing.

    A safetensors file is the length of its header (8 bytes), the header as JSON, and the tensors it lists. It has no
    checksum: a changed weight is not detected.
    """
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


def set_damaged_aside(study: Path) -> list[str]:
    """Rename damaged files, and folders of warm-started trials that are no longer whole.

    Only the driver that holds the study may do so.

    Args:
        study: its folder, or that of a scaling study's cells.

    Returns:
        what was done, a sentence for each.
    """
    records = [(folder.path, folder.read()) for folder in trial_folders(study)]
    taken_over = [(path, record.source) for path, record in records if record and record.source and not record.ended]
    done = [
        f"{path}: was warm-started from {source} and is no longer whole; kept as {set_aside(path).name}; "
        "--warm-start reads it again"
        for path, source in taken_over
    ]
    return done + [_set_aside(file) for file in damaged_files(study)]


def repair(study: Path, points: Points) -> list[str]:
    """Set damaged files aside and restore what can be, so that the study can go on; only its driver may.

    What killed processes left half-written is removed.

    Args:
        study: its folder.
        points: is called where a trial.json is lost.

    Returns:
        what was done, a sentence for each damaged file.
    """
    remove_abandoned(study)
    done = set_damaged_aside(study)
    lost = [file.path for file in damaged_records(study) if file.path.name == TRIAL]
    points_by_number = points() if lost else {}
    for folder in trial_folders(study):
        if folder.trial_file not in lost:
            continue
        if folder.number in points_by_number:
            folder.open(points_by_number[folder.number])
            done.append(f"{folder.trial_file}: written again")
        else:
            kept = set_aside(folder.path)
            done.append(f"{folder.path}: its point is lost; kept as {kept.name}")
    return done


def renew_untested(study: Path, untested: Container[int]) -> list[str]:
    """Set trials back whose encoders are to be tested and damaged or missing, so that they are trained again.

    Args:
        study: a confirming study's folder; only its driver may do so.
        untested: numbers of the trials that are to be tested.

    Returns:
        what was done, a sentence for each of them.
    """
    done = []
    for folder in trial_folders(study):
        if folder.number in untested and (damaged_encoder(folder.encoder) or not folder.encoder.exists()):
            kept = set_aside(folder.epochs_file)
            done.append(
                f"{folder.encoder}: damaged or missing, and not yet tested; the trial is trained again (its rows are "
                f"kept as {kept.name})"
            )
    return done


def _set_aside(file: DamagedFile) -> str:
    kept = set_aside(file.path)
    return f"{file.path}: damaged ({file.why}); kept as {kept.name}{_CONSEQUENCES.get(file.path.name, '')}"


_CONSEQUENCES = {
    EPOCHS: ", and the trial is trained again",
    OUTCOME: ", and the trial goes on",
    CHECKPOINT: ", and the trial starts from the beginning",
    ENCODER: "; cfamc train --trial trains the trial anew",
    TEST: ", and the encoder is tested again",
    STUDY: ", and written again",
}
