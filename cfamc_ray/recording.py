"""A trial and its folder: what is trained is written down after every epoch, and picked up again after an interruption.

Knows nothing of Ray; the study's trainables and the command that trains a single configuration both use it.
"""

from collections.abc import Mapping
from dataclasses import asdict
from types import TracebackType
from typing import Any

import torch

from cfamc_ray.config.trial import TrialConfig
from cfamc_ray.data.splits import Splits
from cfamc_ray.study.records import Status, TrialFolder
from cfamc_ray.tensorboard import TrialEvents
from cfamc_ray.trial import OutOfTime, Place, Trial, TrialFailed

Row = dict[str, Any]


class RecordedTrial:
    """A trial that goes on from its folder's checkpoint, where there is one.

    Args:
        folder: of the trial; opened already.
        config: of the trial.
        splits: its images.
        point: the searched keys and their values, for TensorBoard.
        place: of this worker; only the first writes.
        seconds: time limit over all epochs; None for none.
    """

    def __init__(
        self,
        folder: TrialFolder,
        config: TrialConfig,
        splits: Splits,
        *,
        point: Mapping[str, Any],
        place: Place | None = None,
        seconds: float | None = None,
    ) -> None:
        self.folder = folder
        self.trial = Trial(config, splits, place=place, seconds=seconds)
        if folder.checkpoint.exists():
            self.trial.load(folder.checkpoint)
        self.writes = self.trial.place.rank == 0
        self.events = TrialEvents(folder.path, point, first_epoch=self.trial.epoch + 1) if self.writes else None

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
        row = {"trial_id": self.folder.path.name, **asdict(self.trial.run_epoch())}
        if row["done"]:
            self.trial.save_encoder(self.folder.encoder)
        # Rows before the checkpoint: a crash between them repeats an epoch, the other way round would lose a row.
        if self.writes:
            self.folder.write_rows({"trial_id": row["trial_id"], **asdict(past)} for past in self.trial.rows)
        if not row["done"]:
            self.trial.save(self.folder.checkpoint)
        elif self.writes:
            self.folder.checkpoint.unlink(missing_ok=True)
        if self.events is not None:
            self.events.write(row)
        return row


def ends_trial(error: Exception) -> tuple[Status, str] | None:
    """Status and reason where an exception ends a trial alone; None where the process should not go on."""
    match error:
        case OutOfTime():
            return "stopped", str(error)
        case TrialFailed():
            return "failed", str(error)
        case torch.OutOfMemoryError():
            torch.cuda.empty_cache()
            return "failed", f"out of memory: {str(error).splitlines()[0]}"
        case RuntimeError() if "CUDA" in str(error):
            return None
    return "failed", f"{type(error).__name__}: {error}"
