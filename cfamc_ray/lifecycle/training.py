"""Train a run: one trial, in this process or with several workers of Ray Train."""

import logging
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from cfamc_ray.config.errors import InputError
from cfamc_ray.lifecycle.checks import check_data, check_folder, driving
from cfamc_ray.lifecycle.plans import PlannedStudy
from cfamc_ray.store.environment import write_environment
from cfamc_ray.store.images import note
from cfamc_ray.store.records import TrialFolder, TrialRecord, write_config
from cfamc_ray.store.repair import repair
from cfamc_ray.terminal import Detail, TrainingView, say

logger = logging.getLogger(__name__)


def train_run(
    run: PlannedStudy,
    *,
    resume: bool = False,
    same_images: Sequence[Path] = (),
    address: str | None = None,
    detail: Detail,
) -> TrialRecord:
    """Begin or resume a run, and train it to the end.

    Args:
        run: a study of one trial.
        resume: as in `cfamc_ray.train`.
        same_images: folders of studies whose images the run must share.
        address: as in `cfamc_ray.train`.
        detail: amount of progress output.

    Raises:
        InputError: as `cfamc_ray.train`.
        KeyboardInterrupt: as `cfamc_ray.train`.
    """
    config, folder = run.config, run.folder
    if not check_folder(config, folder, resume=resume):
        digests = check_data(config, [config.trial], folder, *same_images)
        with driving(folder):
            _open(run)
            note(folder, digests, config=config)
            say(f"{config.name} → {folder}", detail)
            if config.resources.workers_per_trial == 1:
                _train_here(run, detail)
            else:
                _train_with_ray(run, address, detail)
    record = TrialFolder(folder, 0).read()
    assert record is not None
    return record


def _open(run: PlannedStudy) -> None:
    try:
        run.folder.mkdir(parents=True, exist_ok=True)
        write_config(run.folder, run.config)
        write_environment(run.folder)
    except OSError as error:
        raise InputError(
            f"{run.folder}: cannot be written ({error.strerror}); name another folder with --out"
        ) from None


def _train_here(run: PlannedStudy, detail: Detail) -> None:
    import torch  # noqa: PLC0415 (slow to import)

    from cfamc_ray.method.parallel import DistributedContext  # noqa: PLC0415
    from cfamc_ray.training.allocator import worker_device  # noqa: PLC0415
    from cfamc_ray.training.recording import run_recorded  # noqa: PLC0415

    for line in repair(run.folder, lambda: {0: {}}):
        logger.warning(line)
    context = DistributedContext(device=worker_device(run.config.resources))
    trial_folder, threads = TrialFolder(run.folder, 0), torch.get_num_threads()
    try:
        with TrainingView(trial_folder, run.config, sys.stdout, detail=detail) as view:
            for _ in run_recorded(run.config, trial_folder, {}, context, on_minibatch=view.advance):
                view.show()
    finally:
        torch.set_num_threads(threads)


def _train_with_ray(run: PlannedStudy, address: str | None, detail: Detail) -> None:
    from cfamc_ray.orchestration.run import run_study  # noqa: PLC0415 (needs Ray)

    view_on = partial(TrainingView, TrialFolder(run.folder, 0))
    if not run_study(run.config, run.folder, address=address, detail=detail, view_on=view_on):
        raise KeyboardInterrupt
