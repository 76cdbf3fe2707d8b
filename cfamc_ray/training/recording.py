"""A trial with its folder: its state is recorded after every epoch, and resumed after an interruption.

It does not depend on Ray; the study's trainables and the command that trains a single configuration both use it.
"""

import re
import traceback
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
import torch.distributed as dist

from cfamc_ray.config.errors import first_line
from cfamc_ray.config.study import StudyConfig
from cfamc_ray.config.trial import TrialConfig
from cfamc_ray.data.splits import Splits, load_splits
from cfamc_ray.host.files import DiskFullError, is_disk_full, set_aside, write_text
from cfamc_ray.method.parallel import DistributedContext
from cfamc_ray.store.begun_and_ended import Status
from cfamc_ray.store.layout import TRACEBACK
from cfamc_ray.store.records import TrialFolder
from cfamc_ray.store.stop_reason import StopReason
from cfamc_ray.store.trunks import find_trunks, keep_trunk
from cfamc_ray.training.allocator import keep_freed_memory, release_freed_memory, use_device
from cfamc_ray.training.checkpoint import CheckpointError
from cfamc_ray.training.tensorboard import TrialEvents
from cfamc_ray.training.trial import OutOfTime, Trial, TrialFailed

SHOWN = 4
"""Number of images whose crops TensorBoard shows."""
_OUT_OF_MEMORY = re.compile("out of memory|_ALLOC_FAILED|can't allocate memory|not enough memory", re.IGNORECASE)
"""Matches out-of-memory errors of CUDA, Triton, torch's allocators and libraries, as CUBLAS_STATUS_ALLOC_FAILED."""
_LOST = re.compile("CUDA|CUDNN|CUBLAS|CUSOLVER|NCCL|gloo")
"""Matches errors after which this process's GPU or another worker may no longer respond; does not match `cuda:0`."""

Row = dict[str, Any]


def run_recorded(
    study: StudyConfig,
    folder: TrialFolder,
    point: Mapping[str, Any],
    context: DistributedContext,
    *,
    on_minibatch: Callable[[], None] = lambda: None,
) -> Iterator[Row]:
    """Train a trial and yield its rows with its status; an exception that ends only the trial gives a last row.

    Args:
        study: study of the trial.
        folder: folder of the trial; if it has a checkpoint, the trial is resumed from it.
        point: the searched keys and their values.
        context: context of this worker; all workers call this.
        on_minibatch: as in `Trial`.
    """
    torch.set_num_threads(study.resources.cpus_per_worker)
    use_device(context.device, study.resources.gpus_per_worker)
    keep_freed_memory()
    release_freed_memory()
    recorded = folder.read()
    ended = torch.tensor(recorded is not None and recorded.ended, device=context.device)
    context.as_first([ended])  # a network file system may show it to another machine later
    if ended:
        last = recorded.rows[-1] if recorded and recorded.rows else {}
        yield {**last, "status": recorded.status if recorded else "finished", "done": True}
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
            if reason.kind == "error" and folder.path.is_dir():
                write_text(folder.path / TRACEBACK, traceback.format_exc())
            folder.close(status, reason.text, reason.kind, reason.origin)
        if not known_to_all:
            raise  # only this worker knows; the others are ended from outside, and all read the outcome when restarted
    release_freed_memory()  # after the exception is gone, whose traceback holds the trial
    yield {"status": status, "reason": reason.text, "done": True}


def _epochs(
    study: StudyConfig,
    folder: TrialFolder,
    point: Mapping[str, Any],
    context: DistributedContext,
    on_minibatch: Callable[[], None],
) -> Iterator[Row]:
    """Train a trial and yield its rows; only this generator holds the trial."""
    if context.rank == 0:
        folder.open(point)
    config = study.trial_at(point)
    minutes = study.resources.minutes_per_trial
    with RecordedTrial(
        folder,
        config,
        load_splits(config.data, judged_on=config.judged_on),
        point=point,
        trunk_epochs=study.search.fork.epochs_of(config) if study.search.fork else (),
        context=context,
        seconds=60 * minutes if minutes else None,
        on_minibatch=on_minibatch,
    ) as recorded:
        while not recorded.trial.finished and not recorded.trial.broadcast_from_rank0(folder.closed):
            row = recorded.advance()
            yield {**row, "status": "finished" if row["done"] else "running"}
    if context.rank == 0:
        folder.checkpoint.unlink(missing_ok=True)


class WorkersDisagreeError(Exception):
    """Workers of a trial that find different files of it."""


class RecordedTrial:
    """A trial that is resumed from its folder's checkpoint, or begins with the first epochs of another trial.

    Args:
        folder: folder of the trial, already opened; other trials of its study lie beside it.
        config: config of the trial.
        splits: images of the trial.
        point: the searched keys and their values, for TensorBoard.
        trunk_epochs: numbers of epochs after which a checkpoint is kept from which other trials may begin.
        context: context of this worker; only the first worker writes.
        seconds: time limit over all epochs; None for no limit.
        on_minibatch: as in `Trial`.
    """

    def __init__(
        self,
        folder: TrialFolder,
        config: TrialConfig,
        splits: Splits,
        *,
        point: Mapping[str, Any],
        trunk_epochs: Collection[int] = (),
        context: DistributedContext | None = None,
        seconds: float | None = None,
        on_minibatch: Callable[[], None] = lambda: None,
    ) -> None:
        self.folder, self.trunk_epochs = folder, trunk_epochs
        self._begin = partial(Trial, config, splits, context=context, seconds=seconds, on_minibatch=on_minibatch)
        self.trial = self._begin()
        self.writes = self.trial.context.rank == 0
        if not self._resumes():
            self._begins_from_a_trunk()
        self.events = None
        if self.writes:
            self.events = TrialEvents(
                folder.path,
                point,
                earlier=[row.row() for row in self.trial.rows],
                loss_terms=config.loss.terms,
                measures=[measure.component_name() for measure in config.evaluation.measures],
            )

    def _resumes(self) -> bool:
        """Load the trial's own checkpoint; whether there is one that is whole."""
        if not self._agreed(self.folder.checkpoint.exists()):
            return False
        if self._loads(self.folder.checkpoint, otherwise="the trial starts from the beginning"):
            return True
        if self.writes:
            set_aside(self.folder.checkpoint)
        return False

    def _begins_from_a_trunk(self) -> None:
        """Load the checkpoint of another trial whose first epochs are those of this one, if there is one."""
        paths = find_trunks(self.folder, self.trial.config)
        self._agreed(len(paths))
        trunk = next((path for path in paths if self._loads(path, otherwise="it is not used")), None)
        if self.writes:
            self.folder.begin_from("" if trunk is None else trunk.parent.name, self.trial.epoch)

    def _loads(self, path: Path, *, otherwise: str) -> bool:
        """Load a checkpoint; if it cannot be used, begin the trial anew and say what happens `otherwise`."""
        problem = ""
        try:
            self.trial.load(path)
        except CheckpointError as error:
            problem = str(error)
        if self._agreed(not problem):
            return True
        print(f"{problem}; {otherwise}", flush=True)
        del self.trial  # after the exception is gone, whose traceback holds it
        release_freed_memory()  # a GPU may not hold two trials
        self.trial = self._begin()
        return False

    def _agreed(self, found: int) -> int:
        """What this worker found, if all workers found the same; else they would train different epochs together."""
        if not self.trial.context.same_on_all(found):
            raise WorkersDisagreeError(
                f"{self.folder.path}: the workers of this trial do not find the same files; every machine of a cluster "
                "must see the study's folder, at the same path"
            )
        return found

    def __enter__(self) -> "RecordedTrial":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self.events is not None:
            self.events.close()

    def advance(self) -> Row:
        """Train one epoch and record it; return its row, with the trial's id.

        Raises:
            TrialFailed: as `Trial.run_epoch` does.
        """
        row = {"trial_id": self.folder.path.name, **self.trial.run_epoch().row()}
        if row["done"]:
            self.trial.save_encoder(self.folder.encoder)
            self.trial.save_heads(self.folder.heads)
        # Rows before the checkpoint: a crash between the two repeats an epoch; in the other order it would lose a row.
        if self.writes:
            self.folder.write_rows({"trial_id": row["trial_id"], **past.row()} for past in self.trial.rows)
        if not row["done"]:
            self.trial.save(self.folder.checkpoint)
            if self.writes and self.trial.epoch in self.trunk_epochs:
                keep_trunk(self.folder, self.trial.config, self.trial.epoch)
        elif self.writes:
            self.folder.checkpoint.unlink(missing_ok=True)
        if self.events is not None:
            config = self.trial.trainer.config
            radius = max(config.perturbation.radii(config.crops.views))
            largest = radius if config.perturbation.radii_norm == "linf" else None
            self.events.write(row, self.trial.last_crops(SHOWN), epsilon=largest)
        return row


def ends_trial(error: Exception) -> tuple[Status, StopReason] | None:
    """Status and reason if an exception ends only the trial; None if the process should not continue."""
    match error:
        case OutOfTime():
            return "stopped", StopReason("time_limit", str(error))
        case TrialFailed():
            return "failed", StopReason("diverged", str(error))
        case _ if reason := out_of_memory(error):
            return "failed", StopReason("out_of_memory", reason)
        case WorkersDisagreeError() | dist.DistError() | torch.AcceleratorError():
            # Another worker, what it sees, or this one's GPU was lost.
            return None
        case RuntimeError() if _LOST.search(str(error)):
            return None
    name = type(error).__name__
    frames = traceback.extract_tb(error.__traceback__)
    where = f" at {frames[-1].filename}:{frames[-1].lineno}" if frames else ""
    return "failed", StopReason("error", f"{name}: {error}", origin=name + where)


def out_of_memory(error: Exception) -> str:
    """The reason in tables if a GPU or CPU ran out of memory; empty for any other error."""
    exhausted = isinstance(error, torch.OutOfMemoryError | MemoryError)
    exhausted = exhausted or (isinstance(error, RuntimeError) and bool(_OUT_OF_MEMORY.search(str(error))))
    return f"out of memory: {first_line(error)}" if exhausted else ""
