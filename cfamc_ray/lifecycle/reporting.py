"""The result of a search, and the interface that shows it to a person."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cfamc_ray.front.confirmation import Confirmation
from cfamc_ray.front.front import Front
from cfamc_ray.lifecycle.plans import PlannedStudy
from cfamc_ray.store.records import TrialRecord
from cfamc_ray.store.stop_reason import StopReason
from cfamc_ray.terminal import Detail, say


@dataclass(frozen=True)
class SearchResult:
    """The trials of a study, their front and the report of both."""

    records: Sequence[TrialRecord]
    front: Front
    report: Path
    end_reason: StopReason | None = None
    """Reason why the study is over; None if it was interrupted, or was over before."""

    @property
    def failed(self) -> bool:
        """Whether there is no front, or the study ended because its trials failed alike."""
        return not self.front.members or (self.end_reason is not None and self.end_reason.kind == "failed_alike")


@dataclass(frozen=True)
class Reporter:
    """Shows the progress of a study to a person; this base class prints progress by `detail`, and no results."""

    detail: Detail = "quiet"

    @classmethod
    def for_verbose(cls, verbose: bool) -> "Reporter":
        """The reporter of a call from Python."""
        return cls("normal" if verbose else "quiet")

    def say(self, line: str) -> None:
        """Print a line of progress."""
        say(line, self.detail)

    def search_ended(self, study: PlannedStudy, result: SearchResult) -> None:
        """Called when the search is over or was interrupted, after its tables and its report are written."""

    def front_confirmed(self, study: PlannedStudy, confirmations: Sequence[Confirmation], report: Path) -> None:
        """Called when the front is confirmed, after the tables and the report are written."""
