"""The study folder: the one place that knows how it is laid out, written and read.

    STUDY/study.yaml                       the space as resolved
    STUDY/environment.json                 versions, hardware
    STUDY/images.json                      digests of the images, and where they lay
    STUDY/optuna.db                        the sampler's storage
    STUDY/trials.csv, front.csv, report/   derived; written anew from the trials
    STUDY/trial_00007/trial.json           number and sampled point
    STUDY/trial_00007/epochs.jsonl         one row of metrics per epoch
    STUDY/trial_00007/outcome.json         status, reason and its kind, if it ended other than finished
    STUDY/trial_00007/checkpoint.pt        of an unfinished trial
    STUDY/trial_00007/encoder.safetensors  of a finished one
    STUDY/trial_00007/test.json            what it reached on the test split, where it confirms another trial
    STUDY/confirm/                         a study of the front's points with fresh seeds; confirm.csv sums it up

What the trials' own folders hold is the truth. Every file is written under a temporary name, flushed to disk and
renamed, so a reader never sees half of one, and reading never unpickles anything. A file that the disk has damaged all
the same counts as missing; `study.repair` sets it aside.
"""

import csv
import io
import json
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Self, get_args

from cfamc_ray.config.errors import InputError
from cfamc_ray.config.reading import dump_study, read_resolved, read_resolved_tree
from cfamc_ray.config.study import METRICS, StudyConfig
from cfamc_ray.config.trial import TrialConfig
from cfamc_ray.config.yaml12 import parse_yaml
from cfamc_ray.host.files import write_text
from cfamc_ray.store.content import DamagedFile, content_of, damage_of, json_object
from cfamc_ray.store.images import located, portable
from cfamc_ray.store.stop_reason import StopKind, StopReason

Status = Literal["finished", "stopped", "failed", "infeasible", "running"]
Row = Mapping[str, Any]

STUDY, ENVIRONMENT, TRIALS = "study.yaml", "environment.json", "trials.csv"
COSTS = ("crop_passes", "flops", "train_seconds", "eval_seconds", "peak_memory_bytes")
"""What stands beside the objectives in every table."""


def trial_name(number: int) -> str:
    """The id of a trial, which is its folder's name too."""
    return f"trial_{number:05d}"


@dataclass(frozen=True)
class TrialRecord:
    """What is known of one trial."""

    number: int
    point: Mapping[str, Any]
    """Searched keys and their values."""
    rows: Sequence[Row] = field(default=())
    """One per finished epoch."""
    status: Status = "running"
    reason: str = ""
    """Why a trial that is not finished ended."""
    source: str = ""
    """Trial of another study that this one was taken over from."""
    kind: StopKind | None = None
    """Kind of the reason, for code to compare."""
    origin: str = ""
    """Where an error or a crash came from."""

    def ended_by(self, status: Status, reason: StopReason) -> Self:
        """The record of a trial that ended other than finished."""
        return replace(self, status=status, reason=reason.text, kind=reason.kind, origin=reason.origin)

    @property
    def counts(self) -> bool:
        """Whether it is one of the trials that the budget pays for."""
        return self.status != "infeasible" and not self.source

    @property
    def trial_id(self) -> str:
        """As in the tables."""
        return trial_name(self.number)

    @property
    def ended(self) -> bool:
        """Whether nothing more will come of it, for better or worse."""
        return self.status != "running"

    def value(self, metric: str) -> float:
        """A metric after the last epoch; NaN where it is missing."""
        value = self.rows[-1].get(metric) if self.rows else None
        return float(value) if isinstance(value, int | float) else math.nan

    def values(self, metrics: Iterable[str]) -> list[float]:
        """Several metrics after the last epoch."""
        return [self.value(metric) for metric in metrics]


class TrialFolder:
    """Files of one trial.

    Args:
        study: the study's folder.
        number: of the trial.
        keys: that its point has; None where they are not known.
    """

    def __init__(self, study: Path, number: int, keys: Collection[str] | None = None) -> None:
        self.number, self.keys = number, keys
        self.path = study / trial_name(number)
        self.trial_file, self.epochs_file = self.path / "trial.json", self.path / "epochs.jsonl"
        self.outcome_file, self.test_file = self.path / "outcome.json", self.path / "test.json"
        self.checkpoint = self.path / "checkpoint.pt"
        self.encoder = self.path / "encoder.safetensors"

    def open(self, point: Mapping[str, Any], *, source: str = "") -> None:
        """Make the folder and note the point, and where the trial was taken over from."""
        self.path.mkdir(parents=True, exist_ok=True)
        known = {"number": self.number, "point": dict(point)} | ({"source": source} if source else {})
        write_text(self.trial_file, json.dumps(known) + "\n")

    def write_rows(self, rows: Iterable[Row]) -> None:
        """Replace the rows; what is not a finite number is written as null, never as a number."""
        lines = [json.dumps(_without_nan(row)) + "\n" for row in rows]
        if lines:
            write_text(self.epochs_file, "".join(lines))

    @property
    def closed(self) -> bool:
        """Whether it was noted that the trial ended other than finished."""
        return content_of(self.outcome_file, _outcome) is not None

    def close(self, status: Status, reason: str = "", kind: StopKind | None = None, origin: str = "") -> None:
        """Note that the trial ended other than finished; arguments as the fields of its record."""
        cause = {"kind": kind, "origin": origin} if kind else {}
        if self.path.is_dir():
            write_text(self.outcome_file, json.dumps({"status": status, "reason": reason, **cause}) + "\n")

    def write_test(self, values: Row) -> None:
        """Note what the encoder reached on the test split."""
        write_text(self.test_file, json.dumps(_without_nan(values)) + "\n")

    def read_test(self) -> Row | None:
        """What `write_test` noted; None where the encoder was not tested."""
        return content_of(self.test_file, _tested)

    def read(self) -> TrialRecord | None:
        """The record, as far as its files are whole; None where the trial never began."""
        known = content_of(self.trial_file, self._begun)
        if known is None:
            return None
        rows, outcome = content_of(self.epochs_file, _rows), content_of(self.outcome_file, _outcome)
        done = bool(rows and rows[-1]["done"])
        lost = rows is None and self.epochs_file.exists()
        if outcome is not None and outcome["status"] == "stopped" and (done or lost):
            outcome = None  # the word to stop came after its end, or what was judged is damaged
        status: Status = outcome["status"] if outcome else "finished" if done else "running"
        outcome = outcome or {}
        return TrialRecord(
            self.number,
            known["point"],
            rows or [],
            status,
            outcome.get("reason", ""),
            known.get("source", ""),
            outcome.get("kind"),
            outcome.get("origin", ""),
        )

    def damaged(self) -> list[DamagedFile]:
        """The files of its record that cannot be read, and its trial.json where that is missing beside others."""
        epochs = damage_of(self.epochs_file, _rows)
        outcome = damage_of(self.outcome_file, _outcome)
        if epochs and not outcome and (content_of(self.outcome_file, _outcome) or {}).get("status") == "stopped":
            outcome = DamagedFile(self.outcome_file, "the rows that it judges are damaged")
        others = (self.epochs_file, self.outcome_file, self.checkpoint, self.encoder)
        missing = not self.trial_file.exists() and any(path.exists() for path in others)
        begun = DamagedFile(self.trial_file, "missing") if missing else damage_of(self.trial_file, self._begun)
        return [found for found in (begun, outcome, epochs, damage_of(self.test_file, _tested)) if found]

    def _begun(self, text: str) -> dict[str, Any]:
        known = json_object(text)
        point = known.get("point")
        if not isinstance(point, dict) or not all(
            isinstance(value, int | float | str | None) for value in point.values()
        ):
            raise ValueError("holds no point of a space")
        if not isinstance(known.get("source", ""), str):
            raise ValueError("does not say where it was taken over from")
        if known.get("number") != self.number:
            raise ValueError("is that of another trial")
        if self.keys is not None and point.keys() != set(self.keys):
            raise ValueError("holds a point of another space")
        return known


def trial_folders(study: Path) -> Iterator[TrialFolder]:
    """All trials' folders of a study, by number."""
    keys = _searched_keys(study)
    names = (path.name.removeprefix("trial_") for path in study.glob("trial_*"))
    return (TrialFolder(study, number, keys) for number in sorted(int(name) for name in names if name.isdecimal()))


def _searched_keys(study: Path) -> Collection[str] | None:
    try:
        space = read_resolved_tree(StudyConfig, study / STUDY).get("space")
    except InputError:
        return None
    return space if isinstance(space, dict) else None


def read_trials(study: Path) -> list[TrialRecord]:
    """All trials of a study folder, by number, as far as their files are whole."""
    records = (folder.read() for folder in trial_folders(study))
    return [record for record in records if record is not None]


def trials_of(config: StudyConfig) -> Callable[[TrialRecord], TrialConfig]:
    """The trial that a record is of; that of each number is made once."""
    known: dict[int, TrialConfig] = {}

    def trial_of(record: TrialRecord) -> TrialConfig:
        if record.number not in known:
            known[record.number] = config.trial_at(record.point)
        return known[record.number]

    return trial_of


def damaged_records(study: Path) -> list[DamagedFile]:
    """The files of a study and its trials' records that cannot be read, and those that are missing beside others."""
    folders, of_study = list(trial_folders(study)), []
    try:
        read_config(study)
    except InputError as error:
        why = str(error).removeprefix(f"{study / STUDY}: ").splitlines()[0]
        of_study = [DamagedFile(study / STUDY, why if (study / STUDY).exists() else "missing")]
        folders = [TrialFolder(study, folder.number) for folder in folders]  # of which space, it does not tell
    of_trials = [found for folder in folders for found in folder.damaged()]
    begun = of_trials or (study / STUDY).exists() or any(folder.trial_file.exists() for folder in folders)
    return [*of_study, *of_trials] if begun else []


def read_environment(study: Path) -> Mapping[str, Any]:
    """Versions and hardware that a study ran with; empty where they are missing or damaged."""
    return content_of(study / ENVIRONMENT, json_object) or {}


def read_config(study: Path) -> StudyConfig:
    """The study as it was resolved when it began.

    Raises:
        InputError: where the folder holds no study.
    """
    if not (study / STUDY).is_file():
        raise InputError(f"{study}: holds no study (there is no study.yaml in it)")
    return located(read_resolved(StudyConfig, study / STUDY), study)


def write_config(study: Path, config: StudyConfig) -> None:
    """Note the study as resolved."""
    write_text(study / STUDY, dump_study(portable(config, study)))


def trials_table(config: StudyConfig, records: Iterable[TrialRecord]) -> list[dict[str, Any]]:
    """One row per trial: id, status, reason, epochs, objectives, cost, and a column for each searched key.

    A metric that is missing is None.
    """
    table = []
    for record in records:
        last = record.rows[-1] if record.rows else {}
        known = {
            "trial_id": record.trial_id,
            "status": record.status,
            "reason": record.reason,
            "epochs": len(record.rows),
        }
        known |= {name: last.get(name) for name in _metrics(config)}
        table.append(known | {key: record.point.get(key) for key in config.space})
    return table


def table_columns(config: StudyConfig) -> list[str]:
    """Columns of `trials_table`, also where it has no rows."""
    return ["trial_id", "status", "reason", "epochs", *_metrics(config), *config.space]


def with_cost(objectives: Iterable[str]) -> list[str]:
    """What is shown of a trial in few words: its objectives, and the cost that does not depend on the machine."""
    return list(dict.fromkeys([*objectives, "crop_passes"]))


def _metrics(config: StudyConfig) -> list[str]:
    return list(dict.fromkeys([*config.objectives, *COSTS]))


def csv_text(table: Sequence[Mapping[str, Any]], *, columns: Sequence[str] = ()) -> str:
    """A table as CSV, with the columns of its rows unless others are named; None is an empty cell."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=columns or list(table[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    return text.getvalue()


def csv_rows(text: str) -> list[dict[str, str]]:
    """The rows of a table as `csv_text` writes it; an empty cell is an empty text.

    Raises:
        ValueError: where the text is no whole table.
    """
    try:
        rows = list(csv.DictReader(io.StringIO(text), strict=True))
    except csv.Error as error:
        raise ValueError(str(error)) from None
    if not text.endswith("\n") or any(None in row or None in row.values() for row in rows):
        raise ValueError("lacks a cell")
    return rows


def tabled_points(config: StudyConfig, study: Path) -> dict[int, dict[str, Any]]:
    """Points by the number of their trial, as trials.csv has them from the last time that a command ended."""
    rows = content_of(study / TRIALS, csv_rows) or []
    named = {row.get("trial_id", ""): row for row in rows if row.keys() >= config.space.keys()}
    points = {name: {key: _values(config, key, row[key]) for key in config.space} for name, row in named.items()}
    return {
        int(name.removeprefix("trial_")): {key: values[0] for key, values in point.items()}
        for name, point in points.items()
        if name.removeprefix("trial_").isdecimal() and all(point.values())
    }


def _values(config: StudyConfig, key: str, cell: str) -> list[Any]:
    """What a cell may stand for among a key's values."""
    try:
        readings = [parse_yaml(cell), cell]
    except InputError:
        readings = [cell]
    return [value for value in readings if config.space[key].contains(value)]


def _rows(text: str) -> list[Row]:
    rows = [json_object(line) for line in text.splitlines()]
    if not rows or not all(isinstance(row.get("done"), bool) for row in rows):
        raise ValueError("holds no rows of epochs")
    if any(row.get("epoch") != number for number, row in enumerate(rows, start=1)):
        raise ValueError("lacks the row of an epoch")
    if not all(isinstance(row.get(name), int | float | None) for row in rows for name in (*METRICS, *COSTS)):
        raise ValueError("holds a metric that is no number")
    return list(rows)


def _outcome(text: str) -> dict[str, Any]:
    known = json_object(text)
    if known.get("status") not in ("stopped", "failed", "infeasible") or not isinstance(known.get("reason"), str):
        raise ValueError("does not say how the trial ended")
    if known.get("kind") not in (None, *get_args(StopKind)) or not isinstance(known.get("origin", ""), str):
        raise ValueError("gives a reason of no known kind")
    return known


def _tested(text: str) -> dict[str, Any]:
    known = json_object(text)
    texts = {"test_sample": dict, "problem": str}
    if not all(isinstance(value, texts.get(name, int | float | None)) for name, value in known.items()):
        raise ValueError("holds no accuracies")
    return known


def _without_nan(row: Row) -> dict[str, Any]:
    return {key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in row.items()}
