"""Warm start: trials of an earlier study are copied into another one on the same space."""

import shutil
from pathlib import Path

from cfamc_ray.config.errors import InputError
from cfamc_ray.config.study import StudyConfig
from cfamc_ray.config.trial import without_paths
from cfamc_ray.space.search_space import SearchSpace
from cfamc_ray.store.images import same_images
from cfamc_ray.store.records import TrialFolder, read_config, read_trials

SAME = ("objectives", "variant", "base", "trial")
"""Keys that decide what a trial's numbers mean."""


def warm_start_from(config: StudyConfig, folder: Path, source: Path) -> int:
    """Copy the finished and the early stopped trials of a study whose points lie in this one's space.

    The sampler learns from them and they stand in the tables, but the budget does not pay for them. Trials that were
    copied before are left out.

    Args:
        config: of the study that is warm-started.
        folder: of that study.
        source: folder of the earlier study.

    Returns:
        how many were copied.

    Raises:
        InputError: where the source holds no study, or one whose trials mean something else.
    """
    theirs = read_config(source)
    mine, other = (study.model_dump(mode="json", include={*SAME}) for study in (config, theirs))
    mine["trial"], other["trial"] = without_paths(mine["trial"]), without_paths(other["trial"])
    different = [key for key in SAME if mine[key] != other[key]]
    different += [] if same_images(folder, source) else ["images"]
    different += ["space"] if set(config.space) != set(theirs.space) else []
    if different:
        raise InputError(f"--warm-start {source}: is a study of something else (different: {', '.join(different)})")
    present = read_trials(folder)
    copied_before, space = {record.source for record in present}, SearchSpace(config)
    number = max((record.number for record in present), default=-1) + 1
    copied = 0
    for record in read_trials(source):
        name = f"{theirs.name}/{record.trial_id}"
        if record.status not in ("finished", "stopped") or name in copied_before or not space.contains(record.point):
            continue
        target, origin = TrialFolder(folder, number + copied), TrialFolder(source, record.number)
        target.open(record.point, source=name)
        target.write_rows({**row, "trial_id": target.path.name} for row in record.rows)
        for saved, copy in ((origin.encoder, target.encoder), (origin.heads, target.heads)):
            if saved.exists():
                shutil.copy2(saved, copy)
        if record.status == "stopped":
            target.close(record.status, record.reason, record.kind, record.origin)
        copied += 1
    return copied
