"""A trial and its folder: what is trained is written down after every epoch, and picked up again after an interruption.

Knows nothing of Ray; the study's trainables and the command that trains a single configuration both use it.
"""

import re
import traceback
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from types import TracebackType
from typing import Any

import torch
import torch.distributed as dist

from cfamc_ray.config.errors import first_line
from cfamc_ray.config.study import StudyConfig
from cfamc_ray.config.trial import TrialConfig
from cfamc_ray.data.splits import Splits, load_splits
from cfamc_ray.host.files import DiskFullError, is_disk_full, set_aside
from cfamc_ray.method.parallel import DistributedContext
from cfamc_ray.store.records import Status, TrialFolder
from cfamc_ray.store.stop_reason import StopReason
from cfamc_ray.training.allocator import keep_freed_memory, release_freed_memory, use_device
from cfamc_ray.training.checkpoint import CheckpointError
from cfamc_ray.training.tensorboard import TrialEvents
from cfamc_ray.training.trial import OutOfTime, Trial, TrialFailed

SHOWN = 4
"""Images whose crops TensorBoard shows."""
_OUT_OF_MEMORY = re.compile("out of memory|_ALLOC_FAILED|can't allocate memory|not enough memory", re.IGNORECASE)
"""In errors of CUDA, Triton and torch's allocators, and of libraries: CUBLAS_STATUS_ALLOC_FAILED."""
_LOST = re.compile("CUDA|CUDNN|CUBLAS|CUSOLVER|NCCL|gloo")
"""In errors after which this process's GPU, or another worker, may no longer answer; not in one that names `cuda:0`."""

Row = dict[str, Any]


def run_recorded(
    study: StudyConfig,
    folder: TrialFolder,
    point: Mapping[str, Any],
    context: DistributedContext,
    *,
    on_minibatch: Callable[[], None] = lambda: None,
) -> Iterator[Row]:
    """Rows of a trial as it trains, with its status; an exception that ends the trial alone is a last row.

    Args:
        study: the trial is one of its points.
        folder: of the trial; what it holds already is gone on from.
        point: the searched keys and their values.
        context: of this worker; all of them call this.
        on_minibatch: as for `Trial`.
    """
    torch.set_num_threads(study.resources.cpus_per_worker)
    use_device(context.device, study.resources.gpus_per_worker)
    keep_freed_memory()
    release_freed_memory()
    known = folder.read()
    if known is not None and known.ended:
        yield {**(known.rows[-1] if known.rows else {}), "status": known.status, "done": True}
        return
    try:
        yield from _epochs(study, folder, point, context, on_minibatch)
        return
    except Exception as error:
        if is_disk_full(error):
            raise DiskFullError(f"{folder.path}: the disk is full") from None
        outcome = ends_trial(error)
        if outcome is None:
            raise
        status, reason = outcome
        known_to_all = context.world_size == 1 or isinstance(error, TrialFailed)
        if context.rank == 0 or not known_to_all:
            folder.close(status, reason.text, reason.kind, reason.origin)
        if not known_to_all:
            raise  # only this worker knows; the others are ended from outside, and all read the outcome on a new start
    release_freed_memory()  # not before the exception is gone, whose traceback holds the trial
    yield {"status": status, "reason": reason.text, "done": True}


def _epochs(
    study: StudyConfig,
    folder: TrialFolder,
    point: Mapping[str, Any],
    context: DistributedContext,
    on_minibatch: Callable[[], None],
) -> Iterator[Row]:
    """Rows of a trial as it trains; it alone holds the trial."""
    if context.rank == 0:
        folder.open(point)
    config = study.trial_at(point)
    minutes = study.resources.minutes_per_trial
    with RecordedTrial(
        folder,
        config,
        load_splits(config.data, judged_on=config.judged_on),
        point=point,
        context=context,
        seconds=60 * minutes if minutes else None,
        on_minibatch=on_minibatch,
    ) as recorded:
        while not recorded.trial.finished and not recorded.trial.broadcast_from_rank0(folder.closed):
            row = recorded.advance()
            yield {**row, "status": "finished" if row["done"] else "running"}
    if context.rank == 0:
        folder.checkpoint.unlink(missing_ok=True)


class RecordedTrial:
    """A trial that goes on from its folder's checkpoint, where there is one.

    Args:
        folder: of the trial; opened already.
        config: of the trial.
        splits: its images.
        point: the searched keys and their values, for TensorBoard.
        context: of this worker; only the first writes.
        seconds: time limit over all epochs; None for none.
        on_minibatch: as for `Trial`.
    """

    def __init__(
        self,
        folder: TrialFolder,
        config: TrialConfig,
        splits: Splits,
        *,
        point: Mapping[str, Any],
        context: DistributedContext | None = None,
        seconds: float | None = None,
        on_minibatch: Callable[[], None] = lambda: None,
    ) -> None:
        self.folder = folder
        begin = partial(Trial, config, splits, context=context, seconds=seconds, on_minibatch=on_minibatch)
        self.trial = begin()
        self.writes = self.trial.context.rank == 0
        if folder.checkpoint.exists() and not self._goes_on():
            del self.trial
            release_freed_memory()  # a GPU may not hold two trials
            self.trial = begin()
            if self.writes:
                set_aside(folder.checkpoint)
        self.events = None
        if self.writes:
            self.events = TrialEvents(
                folder.path,
                point,
                first_epoch=self.trial.epoch + 1,
                loss_terms=config.loss.terms,
                measures=[measure.component_name() for measure in config.evaluation.measures],
            )

    def _goes_on(self) -> bool:
        try:
            self.trial.load(self.folder.checkpoint)
        except CheckpointError as error:
            print(f"{error}; the trial begins anew", flush=True)
            return False
        return True

    def __enter__(self) -> "RecordedTrial":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self.events is not None:
            self.events.close()

    def advance(self) -> Row:
        """Train one epoch and write it down; the row, with the trial's id.

        Raises:
            TrialFailed: as `Trial.run_epoch` does.
        """
        row = {"trial_id": self.folder.path.name, **self.trial.run_epoch().row()}
        if row["done"]:
            self.trial.save_encoder(self.folder.encoder)
        # Rows before the checkpoint: a crash between them repeats an epoch, the other way round would lose a row.
        if self.writes:
            self.folder.write_rows({"trial_id": row["trial_id"], **past.row()} for past in self.trial.rows)
        if not row["done"]:
            self.trial.save(self.folder.checkpoint)
        elif self.writes:
            self.folder.checkpoint.unlink(missing_ok=True)
        if self.events is not None:
            config = self.trial.config
            radius = max(config.perturbation.radii(config.crops.views))
            self.events.write(row, self.trial.last_crops(SHOWN), epsilon=radius)
        return row


def ends_trial(error: Exception) -> tuple[Status, StopReason] | None:
    """Status and reason where an exception ends a trial alone; None where the process should not go on."""
    match error:
        case OutOfTime():
            return "stopped", StopReason("time_limit", str(error))
        case TrialFailed():
            return "failed", StopReason("diverged", str(error))
        case _ if reason := out_of_memory(error):
            return "failed", StopReason("out_of_memory", reason)
        case dist.DistError() | torch.AcceleratorError():  # another worker, or this one's GPU, was lost
            return None
        case RuntimeError() if _LOST.search(str(error)):
            return None
    name = type(error).__name__
    frames = traceback.extract_tb(error.__traceback__)
    where = f" at {frames[-1].filename}:{frames[-1].lineno}" if frames else ""
    return "failed", StopReason("error", f"{name}: {error}", origin=name + where)


def out_of_memory(error: Exception) -> str:
    """The reason that tables show where memory did not suffice, of a GPU or a CPU; empty for any other error."""
    lacks = isinstance(error, torch.OutOfMemoryError | MemoryError)
    lacks = lacks or (isinstance(error, RuntimeError) and bool(_OUT_OF_MEMORY.search(str(error))))
    return f"out of memory: {first_line(error)}" if lacks else ""
