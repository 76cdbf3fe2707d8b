"""Records of trials: what the folder of each trial holds, and the study that they belong to.

What the trials' own folders hold is the truth. Every file is written under a temporary name, flushed to disk and
renamed, so a reader never sees half of one, and reading never unpickles anything. A file that the disk has damaged all
the same counts as missing; `store.repair` sets it aside. Where which file lies is in `store.layout`.
"""

import json
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Self

from cfamc_ray.config.errors import InputError
from cfamc_ray.config.reading import dump_study, read_resolved, read_resolved_tree
from cfamc_ray.config.study import StudyConfig
from cfamc_ray.config.trial import TrialConfig
from cfamc_ray.host.files import write_text
from cfamc_ray.store.begun_and_ended import Begun, Outcome, Status, dump_begun, parse_begun, parse_outcome
from cfamc_ray.store.content import DamagedFile, content_of, damage_of
from cfamc_ray.store.epoch_rows import Row, dump_rows, parse_rows
from cfamc_ray.store.images import located, portable
from cfamc_ray.store.layout import (
    CHECKPOINT,
    ENCODER,
    EPOCHS,
    HEADS,
    OUTCOME,
    STUDY,
    TEST,
    TRIAL,
    TRUNKS,
    trial_name,
)
from cfamc_ray.store.stop_reason import StopKind, StopReason
from cfamc_ray.store.tested import PointTest, dump_tests, parse_tests


@dataclass(frozen=True)
class TrialRecord:
    """A trial: its point, its metrics so far, and how it ended."""

    number: int
    point: Mapping[str, Any]
    """Searched keys and their values."""
    rows: Sequence[Row] = field(default=())
    """One per finished epoch."""
    status: Status = "running"
    reason: str = ""
    """Why a trial that is not finished ended."""
    source: str = ""
    """``STUDY/TRIAL_ID`` of the trial that a warm start copied; empty for a trial of this study."""
    kind: StopKind | None = None
    """Kind of the reason, for code to compare."""
    origin: str = ""
    """Where an error or a crash came from."""
    trunk: str = ""
    """Id of the trial whose first epochs it took over instead of training them itself; empty if it did not."""
    trunk_epochs: int = 0
    """Number of these epochs; their rows are among its own."""
    place: int | None = None
    """Which of its operating points this record stands for; None: the balanced one."""

    def ended_by(self, status: Status, reason: StopReason) -> Self:
        """The record of a trial that ended other than finished."""
        return replace(self, status=status, reason=reason.text, kind=reason.kind, origin=reason.origin)

    @property
    def counts(self) -> bool:
        """Whether the budget pays for it."""
        return self.status != "infeasible" and not self.source

    @property
    def trial_id(self) -> str:
        """Its id, as in the tables."""
        return trial_name(self.number)

    @property
    def ended(self) -> bool:
        """Whether it no longer runs."""
        return self.status != "running"

    @property
    def operating_points(self) -> Sequence[Row]:
        """The accuracies after the last epoch for each L2 strength (`l2`) of the probe; empty where there are none."""
        return (self.rows[-1].get("operating_points") or ()) if self.rows else ()

    def each_point(self, metrics: Collection[str]) -> list[Self]:
        """The record at each of its operating points.

        Only itself if it stands for one already, or if the metrics are the same at all of them.
        """
        points = () if self.place is not None else self.operating_points
        if not any(name in point for point in points for name in metrics):
            return [self]
        return [replace(self, place=place) for place in range(len(points))]

    @property
    def key(self) -> tuple[int, int | None]:
        """What tells apart records at operating points: number and place."""
        return self.number, self.place

    @property
    def l2(self) -> float | None:
        """L2 strength of the operating point that this record stands for; None where it stands for none."""
        return None if self.place is None else float(self.operating_points[self.place]["l2"])

    def recorded(self, metric: str) -> Any:
        """A metric after the last epoch, at the operating point if the record stands for one; None where missing."""
        value = self.rows[-1].get(metric) if self.rows else None
        return value if self.place is None else self.operating_points[self.place].get(metric, value)

    def value(self, metric: str) -> float:
        """A metric as `recorded`, as a float; NaN where it is missing."""
        value = self.recorded(metric)
        return float(value) if isinstance(value, int | float) else math.nan

    def paid(self, cost: str) -> float:
        """A cost of the trial itself: a metric that adds up over epochs, without the epochs of its trunk."""
        before = self.rows[self.trunk_epochs - 1].get(cost) if self.trunk_epochs and self.rows else None
        return self.value(cost) - (float(before) if isinstance(before, int | float) else 0.0)

    def values(self, metrics: Iterable[str]) -> list[float]:
        """Several metrics after the last epoch."""
        return [self.value(metric) for metric in metrics]


class TrialFolder:
    """Files of one trial.

    Args:
        study: the study's folder.
        number: of the trial.
        keys: of its point, which is then checked; None: they are not known.
    """

    def __init__(self, study: Path, number: int, keys: Collection[str] | None = None) -> None:
        self.number, self.keys = number, keys
        self.path = study / trial_name(number)
        self.trial_file, self.epochs_file = self.path / TRIAL, self.path / EPOCHS
        self.outcome_file, self.test_file = self.path / OUTCOME, self.path / TEST
        self.checkpoint, self.encoder, self.heads = (self.path / name for name in (CHECKPOINT, ENCODER, HEADS))

    def open(self, point: Mapping[str, Any], *, source: str = "") -> None:
        """Make the folder and write down the point and, for a warm-started trial, its source."""
        self.path.mkdir(parents=True, exist_ok=True)
        before = content_of(self.trial_file, self._begun)
        begun = before if before and dict(before.point) == dict(point) else Begun(dict(point))
        self._begin(begun._replace(source=source))

    def begin_from(self, trunk: str, epochs: int) -> None:
        """Note that the open trial took over the first epochs of another one.

        Args:
            trunk: id of the other trial; empty to note that it trains all epochs itself.
            epochs: number of these epochs.
        """
        begun = content_of(self.trial_file, self._begun)
        assert begun is not None, "the trial is open"
        self._begin(begun._replace(trunk=trunk, trunk_epochs=epochs))

    def _begin(self, begun: Begun) -> None:
        if content_of(self.trial_file, self._begun) != begun:
            write_text(self.trial_file, dump_begun(self.number, begun))

    def drop_weights(self) -> None:
        """Delete its encoder, its heads, and the checkpoints from which other trials may begin."""
        for path in (self.encoder, self.heads, *self.path.glob(TRUNKS)):
            path.unlink(missing_ok=True)

    def write_rows(self, rows: Iterable[Row]) -> None:
        """Replace the rows; NaN and infinity are written as null."""
        if text := dump_rows(rows):
            write_text(self.epochs_file, text)

    @property
    def closed(self) -> bool:
        """Whether outcome.json says that the trial ended, other than by finishing."""
        return content_of(self.outcome_file, parse_outcome) is not None

    def close(self, status: Status, reason: str = "", kind: StopKind | None = None, origin: str = "") -> None:
        """Note that the trial ended other than finished; arguments as the fields of its record."""
        cause = {"kind": kind, "origin": origin} if kind else {}
        if self.path.is_dir():
            write_text(self.outcome_file, json.dumps({"status": status, "reason": reason, **cause}) + "\n")

    def add_test(self, test: PointTest) -> None:
        """Add the accuracies of an operating point to test.json; an earlier test of the same point is replaced."""
        write_text(self.test_file, dump_tests({**self.read_tests(), test.l2: test}.values()))

    def read_tests(self) -> Mapping[float | None, PointTest]:
        """The accuracies on the test split by L2 strength; empty where the encoder was not tested."""
        return content_of(self.test_file, parse_tests) or {}

    def read(self) -> TrialRecord | None:
        """The record, as far as its files are whole; None where the trial never began."""
        begun = content_of(self.trial_file, self._begun)
        if begun is None:
            return None
        rows, outcome = content_of(self.epochs_file, parse_rows), content_of(self.outcome_file, parse_outcome)
        done = bool(rows and rows[-1]["done"])
        lost = rows is None and self.epochs_file.exists()
        if outcome is not None and outcome.status == "stopped" and (done or lost):
            outcome = None  # the decision to stop came after the trial's end, or the rows it rests on are damaged
        status, reason, kind, origin = outcome or Outcome("finished" if done else "running")
        epochs = begun.trunk_epochs if rows and begun.trunk_epochs <= len(rows) else 0
        trunk = begun.trunk if epochs else ""
        return TrialRecord(
            self.number, begun.point, rows or [], status, reason, begun.source, kind, origin, trunk, epochs
        )

    def damaged(self) -> list[DamagedFile]:
        """The files of its record that cannot be read; trial.json too, where it alone is missing."""
        epochs, outcome = damage_of(self.epochs_file, parse_rows), damage_of(self.outcome_file, parse_outcome)
        written = content_of(self.outcome_file, parse_outcome)
        if epochs and written and written.status == "stopped":
            outcome = DamagedFile(self.outcome_file, "the rows that it judges are damaged")
        others = (self.epochs_file, self.outcome_file, self.checkpoint, self.encoder)
        missing = not self.trial_file.exists() and any(path.exists() for path in others)
        begun = DamagedFile(self.trial_file, "missing") if missing else damage_of(self.trial_file, self._begun)
        return [file for file in (begun, outcome, epochs, damage_of(self.test_file, parse_tests)) if file]

    def _begun(self, text: str) -> Begun:
        return parse_begun(text, self.number, self.keys)


def trial_folders(study: Path) -> Iterator[TrialFolder]:
    """All trials' folders of a study, by number."""
    keys = _searched_keys(study)
    names = (path.name.removeprefix("trial_") for path in study.glob("trial_*"))
    return (TrialFolder(study, number, keys) for number in sorted(int(name) for name in names if name.isdecimal()))


def _searched_keys(study: Path) -> Collection[str] | None:
    path = study / STUDY
    return _keys_of_space(path, path.read_bytes() if path.is_file() else b"")


@lru_cache(maxsize=16)
def _keys_of_space(path: Path, _content: bytes) -> Collection[str] | None:
    try:
        space = read_resolved_tree(StudyConfig, path).get("space")
    except InputError:
        return None
    return tuple(space) if isinstance(space, dict) else None


def read_trials(study: Path) -> list[TrialRecord]:
    """All trials of a study folder, by number, as far as their files are whole."""
    return [record for folder in trial_folders(study) if (record := folder.read()) is not None]


def trials_of(config: StudyConfig) -> Callable[[TrialRecord], TrialConfig]:
    """A function from a record to its trial's config, which makes each of them once."""
    made: dict[int, TrialConfig] = {}

    def trial_of(record: TrialRecord) -> TrialConfig:
        if record.number not in made:
            made[record.number] = config.trial_at(record.point)
        return made[record.number]

    return trial_of


def damaged_records(study: Path) -> list[DamagedFile]:
    """The files of a study and its trials' records that cannot be read, and those that are missing beside others."""
    folders, of_study = list(trial_folders(study)), []
    try:
        read_config(study)
    except InputError as error:
        why = str(error).removeprefix(f"{study / STUDY}: ").splitlines()[0]
        of_study = [DamagedFile(study / STUDY, why if (study / STUDY).exists() else "missing")]
        folders = [TrialFolder(study, folder.number) for folder in folders]  # whose keys nothing tells
    of_trials = [file for folder in folders for file in folder.damaged()]
    begun = of_trials or (study / STUDY).exists() or any(folder.trial_file.exists() for folder in folders)
    return [*of_study, *of_trials] if begun else []


def read_config(study: Path) -> StudyConfig:
    """The study as it was resolved when it began.

    Raises:
        InputError: where the folder holds no study.
    """
    if not (study / STUDY).is_file():
        raise InputError(f"{study}: holds no study (there is no {STUDY} in it)")
    return located(read_resolved(StudyConfig, study / STUDY), study)


def write_config(study: Path, config: StudyConfig) -> None:
    """Write study.yaml: the study as resolved."""
    write_text(study / STUDY, dump_study(portable(config, study)))
