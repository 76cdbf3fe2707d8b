"""The life of a study from Python, as the commands lead it, but without their output, signals and exit codes.

Bad input raises `InputError`. Ctrl-C raises KeyboardInterrupt and leaves a folder that can be resumed. Nothing is
printed unless `verbose` asks for it; warnings go to the logger ``cfamc_ray``.
"""

import base64
import copy
import html
import io
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cfamc_ray.checks import check_data, check_folder, driving, runs_folder, training_work, warn_of_damage
from cfamc_ray.config.errors import InputError
from cfamc_ray.config.reading import find_space, read_study, resolve_study
from cfamc_ray.config.study import StudyConfig
from cfamc_ray.files import write_text
from cfamc_ray.process import before_end
from cfamc_ray.search.budget import Budget
from cfamc_ray.study.confirmation import Confirmed, confirmation_table
from cfamc_ray.study.cost_model import CostModel
from cfamc_ray.study.finalists import confirmed_front, write_confirmation
from cfamc_ray.study.front import Front, find_front
from cfamc_ray.study.images import found_from, note
from cfamc_ray.study.mirror import mirrored
from cfamc_ray.study.records import (
    TRIALS,
    TrialFolder,
    TrialRecord,
    csv_text,
    read_config,
    read_trials,
    table_columns,
    trials_table,
    write_config,
)
from cfamc_ray.study.system import read_costs
from cfamc_ray.study.takeover import take_over
from cfamc_ray.terminal import Detail, say

if TYPE_CHECKING:
    import pandas as pd

Space = str | os.PathLike[str] | Mapping[str, Any]
"""A path, the bare name of a given space, or its keys."""
FIGURE_PIXELS = 640
"""Width of the front's figure in a notebook."""


@dataclass(frozen=True)
class Study:
    """A study and its folder, which holds all that is known of it; what is read from it is up to date."""

    folder: Path
    config: StudyConfig = field(repr=False)

    @property
    def trials(self) -> "pd.DataFrame":
        """What trials.csv has: a row per trial with its status, objectives, cost and searched keys.

        What is missing is NaN.
        """
        return _frame(_trials_csv(self.config, read_trials(self.folder)))

    @property
    def front(self) -> "pd.DataFrame":
        """What front.csv has: the finished trials that no other one dominates, best first in the first objective."""
        return _frame(_trials_csv(self.config, self._front.members))

    @property
    def _front(self) -> Front:
        return find_front(self.config, read_trials(self.folder))

    def report(self, *, budget: float | None = None) -> Path:
        """Write report/report.html, with every figure and table beside it; also of a study that still runs.

        Args:
            budget: crop passes that a recommended trial may take.

        Returns:
            path of the page.
        """
        from cfamc_ray.report import write_report  # noqa: PLC0415 (matplotlib and Plotly are slow to import)

        return write_report(self.folder, budget=budget)

    def resume(
        self,
        *,
        overrides: Sequence[str] = (),
        costs: Path | str | None = None,
        mirror: str | None = None,
        address: str | None = None,
        verbose: bool = False,
    ) -> "Study":
        """Go on with an unfinished study; with a larger ``budget.trials`` among the overrides, extend a finished one.

        Args:
            overrides: as for `run_study`, and so are the other arguments.
            costs: likewise.
            mirror: likewise.
            address: likewise.
            verbose: likewise.

        Returns:
            the study as it is then.

        Raises:
            InputError: where there is nothing to resume, or an override makes it another study.
            KeyboardInterrupt: as for `run_study`.
        """
        study = self._with(overrides)
        with mirrored(study.folder, mirror):
            models = None if costs is None else read_costs(Path(costs), study.config, training_work)
            search(study, resume=True, costs=models, address=address, narrator=_narrator(verbose))
        return study

    def confirm(
        self, *, overrides: Sequence[str] = (), address: str | None = None, verbose: bool = False
    ) -> "pd.DataFrame":
        """Train the front anew with fresh seeds and test it in earnest, as the key ``confirm`` says.

        Args:
            overrides: such as ``confirm={seeds: 5}``, where the study itself does not say how.
            address: as for `run_study`.
            verbose: likewise.

        Returns:
            what confirm.csv has: a row per candidate, with no rows where nothing has finished.

        Raises:
            InputError: where nothing says how to confirm, or the folder holds another study.
            KeyboardInterrupt: after which it can be called again.
        """
        study = self._with(overrides)
        if study.config.confirm is None:
            raise InputError(f"{self.folder}: nothing says how to confirm; give overrides=['confirm={{seeds: 5}}']")
        check_folder(study.config, self.folder, resume=True)
        confirmed = confirm(study, address=address, narrator=_narrator(verbose))
        table = confirmation_table(confirmed, study.config.objectives)
        return _frame(csv_text(table, columns=list(table[0]) if table else ["trial"]))

    def _with(self, overrides: Sequence[str]) -> "Study":
        tree = self.config.model_dump(mode="json")
        config = resolve_study(tree, _listed(overrides), source=str(self.folder))
        return Study(self.folder, found_from(config, Path()))

    def _repr_html_(self) -> str:
        """What a notebook shows: name, counts, the front as a figure and as a table."""
        from cfamc_ray.figures.charts import front_chart  # noqa: PLC0415 (matplotlib is slow to import)
        from cfamc_ray.figures.static import draw  # noqa: PLC0415
        from cfamc_ray.report import counts  # noqa: PLC0415

        image = io.BytesIO()
        draw(front_chart(self._front, title=self.config.question or self.config.name)).savefig(image, format="png")
        figure = base64.b64encode(image.getvalue()).decode()
        return (
            f"<h3>{html.escape(self.config.name)}</h3>"
            f"<p>{html.escape(counts(self.config, read_trials(self.folder)))} · {html.escape(str(self.folder))}</p>"
            f'<img alt="the front" width="{FIGURE_PIXELS}" src="data:image/png;base64,{figure}">'
            f"{self.front.to_html(index=False, na_rep='')}"
        )


def run_study(
    space: Space,
    *,
    out: Path | str = "runs",
    overrides: Sequence[str] = (),
    resume: bool = False,
    imports: Sequence[Path | str] = (),
    costs: Path | str | None = None,
    mirror: str | None = None,
    address: str | None = None,
    verbose: bool = False,
) -> Study:
    """Search a space for its front, and confirm that where the space says so; ``python -m cfamc_ray.tune`` does this.

    Args:
        space: path of a YAML file, bare name of a given space, or a mapping with the same keys.
        out: folder that studies lie in; this one's is named after it.
        overrides: ``key=value`` as after ``--set``, such as ``budget.trials=20``.
        resume: whether an unfinished study is to go on.
        imports: folders of earlier studies on the same space whose trials are taken over.
        costs: folder of a scaling study, whose models of time and memory are used.
        mirror: URI of an object store that keeps a copy of the folder.
        address: of a running Ray cluster, ``auto`` or ``HOST:PORT``. None for the one that this process is connected
            to, or else for one that is started here and stopped at the end.
        verbose: whether progress is printed.

    Returns:
        the study, finished; its front may be empty.

    Raises:
        InputError: for whatever is wrong with the space, the folder, the images or the cluster.
        KeyboardInterrupt: where it was interrupted; `Study.resume`, or ``resume=True``, goes on.
    """
    study = planned(space, out=out, overrides=overrides)
    models = None if costs is None else read_costs(Path(costs), study.config, training_work)
    with mirrored(study.folder, mirror):
        search(study, resume=resume, imports=imports, costs=models, address=address, narrator=_narrator(verbose))
    return study


def open_study(folder: Path | str) -> Study:
    """A study that has been run, or still runs, to be looked at or resumed.

    Args:
        folder: of the study, or of a training run.

    Raises:
        InputError: where it holds none.
    """
    study = Study(Path(folder).resolve(), read_config(Path(folder)))
    warn_of_damage(study.folder)
    return study


def planned(space: Space, *, out: Path | str = "runs", overrides: Sequence[str] = ()) -> Study:
    """A study as it would run; nothing is written. Arguments and errors as for `run_study`."""
    if isinstance(space, Mapping):
        config, place = resolve_study(copy.deepcopy(dict(space)), _listed(overrides), source="the space"), Path()
    elif isinstance(space, str | os.PathLike):
        path = find_space(os.fspath(space))
        config, place = read_study(path, _listed(overrides)), path.parent
    else:
        raise InputError(f"{space!r}: a space is a path, a name or a mapping")
    config = found_from(config, place)
    return Study((runs_folder(out) / config.name).resolve(), config)


@dataclass(frozen=True)
class Found:
    """What a search has found, and where that is written."""

    records: Sequence[TrialRecord]
    front: Front
    report: Path
    over: str = ""
    """Why the study is over; empty where it was interrupted, or was over before."""

    @property
    def failed(self) -> bool:
        """Whether there is no front, or the study ended because its trials failed alike."""
        return not self.front.members or "failed alike" in self.over


@dataclass(frozen=True)
class Narrator:
    """Who tells a person how a study goes; this one tells what `detail` asks for on the way, and no results."""

    detail: Detail = "quiet"

    def found(self, study: Study, found: Found) -> None:
        """The search is over, or was interrupted; its tables and its report are written."""

    def confirmed(self, study: Study, confirmed: Sequence[Confirmed], report: Path) -> None:
        """The front is confirmed; likewise."""


def search(
    study: Study,
    *,
    resume: bool = False,
    imports: Sequence[Path | str] = (),
    costs: CostModel | None = None,
    address: str | None = None,
    narrator: Narrator,
) -> Found:
    """Begin a study or go on with it until it is over, write what it has found, and confirm that where it says so.

    Args:
        study: to be run.
        resume: as for `run_study`, and so are `imports` and `address`.
        imports: likewise.
        costs: what was measured elsewhere.
        address: likewise.
        narrator: is told of it.

    Raises:
        InputError: as for `run_study`.
        KeyboardInterrupt: where it was interrupted; what it had found is written by then.
    """
    config, folder = study.config, study.folder
    over = Budget(config, work_of=training_work, costs=costs).over
    if check_folder(config, folder, resume=resume, over=over) and not imports:
        found = _finish(study, narrator)
    else:
        digests = check_data(config, [config.trial_at(next(config.points()))], folder)
        with driving(folder):
            write_config(folder, config)
            note(folder, digests, config=config)
            for source in imports:
                taken = take_over(config, folder, Path(source))
                say(f"{taken} trials taken over from {source}", narrator.detail)
            found = _run(study, costs, address, narrator)
    if config.confirm is not None and not found.failed:
        confirm(study, address=address, narrator=narrator)
    return found


def _run(study: Study, costs: CostModel | None, address: str | None, narrator: Narrator) -> Found:
    """Run trials until the study is over.

    Raises:
        KeyboardInterrupt: where it was interrupted; what it has found so far is written and told.
    """
    from cfamc_ray.orchestration.run import run_study  # noqa: PLC0415 (Ray is slow to import)

    config, folder = study.config, study.folder
    at_once = f"{config.budget.trials} trials, {config.resources.trials_at_once} at once"
    say(f"{config.name}: {at_once} → {folder}", narrator.detail)
    say(f"Ray is starting; what it says goes to {folder / 'ray.log'}", narrator.detail)
    before_end(lambda: _finish(study, narrator))
    try:
        over = run_study(config, folder, address=address, detail=narrator.detail, costs=costs)
    except KeyboardInterrupt:  # before Tune listens for it, or a second time
        over = ""
    found = _finish(study, narrator, over=over)
    if not over:
        raise KeyboardInterrupt
    return found


def _finish(study: Study, narrator: Narrator, *, over: str = "") -> Found:
    """Write the derived files, keep the encoders that are asked for, and tell the front."""
    from cfamc_ray.report import write_report  # noqa: PLC0415 (matplotlib and Plotly are slow to import)

    config, folder, records = study.config, study.folder, read_trials(study.folder)
    front = find_front(config, records)
    for name, rows in ((TRIALS, records), ("front.csv", front.members)):
        write_text(folder / name, _trials_csv(config, rows))
    kept = {record.number for record in front.members}
    if config.keep_encoders == "front":
        for record in records:
            if record.status == "finished" and record.number not in kept:
                TrialFolder(folder, record.number).encoder.unlink(missing_ok=True)
    found = Found(records, front, write_report(folder), over)
    narrator.found(study, found)
    return found


def confirm(study: Study, *, address: str | None = None, narrator: Narrator) -> list[Confirmed]:
    """Train and test the front anew; `study.config.confirm` must be set.

    Args:
        study: whose front is confirmed.
        address: as for `run_study`.
        narrator: is told of it.

    Returns:
        what that shows of each candidate.

    Raises:
        InputError: as for `run_study`.
        KeyboardInterrupt: where it was interrupted; what is confirmed so far is written by then.
    """
    from cfamc_ray.orchestration.confirmation import run_confirmation  # noqa: PLC0415 (Ray is slow to import)
    from cfamc_ray.report import write_report  # noqa: PLC0415

    config, folder = study.config, study.folder
    assert config.confirm is not None
    known = confirmed_front(config, folder)
    if not known or any(found.seeds < config.confirm.seeds for found in known):
        check_data(config, [config.trial_at(next(config.points()))], folder)
    say(f"\nThe front is confirmed with {config.confirm.seeds} fresh seeds → {folder / 'confirm'}", narrator.detail)
    complete = False
    with driving(folder):
        write_config(folder, config)
        with suppress(KeyboardInterrupt):
            complete = run_confirmation(config, folder, address=address, detail=narrator.detail)
        confirmed = confirmed_front(config, folder)
        write_confirmation(config, folder, confirmed)
    if not complete:
        raise KeyboardInterrupt
    narrator.confirmed(study, confirmed, write_report(folder))
    return confirmed


def _narrator(verbose: bool) -> Narrator:
    return Narrator("normal" if verbose else "quiet")


def _listed(overrides: Sequence[str]) -> Sequence[str]:
    if isinstance(overrides, str):
        raise InputError(f"overrides: write a list, [{overrides!r}]")
    return overrides


def _trials_csv(config: StudyConfig, records: Sequence[TrialRecord]) -> str:
    return csv_text(trials_table(config, records), columns=table_columns(config))


def _frame(text: str) -> "pd.DataFrame":
    """A table from CSV: numbers as numbers, and an empty cell as NaN; no word in it means something else."""
    import pandas as pd  # noqa: PLC0415 (slow to import)

    return pd.read_csv(io.StringIO(text), keep_default_na=False, na_values=[""])
