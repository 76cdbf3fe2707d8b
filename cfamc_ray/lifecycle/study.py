"""A study in its folder, for Python: tables, report, notebook view, resume and confirm."""

import base64
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cfamc_ray.config.errors import InputError
from cfamc_ray.front.confirmation import confirmation_table
from cfamc_ray.front.expectation import expected
from cfamc_ray.front.front import Front, find_front
from cfamc_ray.front.interpolation import extend_front
from cfamc_ray.front.progress import counts
from cfamc_ray.front.recommendations import advise
from cfamc_ray.lifecycle.checks import check_folder
from cfamc_ray.lifecycle.costs import cost_model
from cfamc_ray.lifecycle.evaluation_plan import Device
from cfamc_ray.lifecycle.interpolation import SHARES, interpolate_trials
from cfamc_ray.lifecycle.plans import PlannedStudy
from cfamc_ray.lifecycle.reporting import Reporter
from cfamc_ray.lifecycle.search import confirm_front, run_search, trials_csv
from cfamc_ray.lifecycle.sources import as_list
from cfamc_ray.lifecycle.training import train_run
from cfamc_ray.space.reading import resolve_study
from cfamc_ray.store.images import found_from
from cfamc_ray.store.layout import STORAGE
from cfamc_ray.store.mirror import mirrored
from cfamc_ray.store.records import read_trials

if TYPE_CHECKING:
    import pandas as pd

FIGURE_PIXELS = 640
"""Width of the front's figure in a notebook."""


@dataclass(frozen=True)
class Study(PlannedStudy):
    """A study in its folder; every property is read from the files at each access, so it is up to date."""

    @property
    def trials(self) -> "pd.DataFrame":
        """The table trials.csv: a row per trial with its status, objectives, cost and searched keys; NaN if missing."""
        return _frame(trials_csv(self.config, read_trials(self.folder)))

    @property
    def front(self) -> "pd.DataFrame":
        """The table front.csv: a row per operating point of the front, best in the first objective first.

        The column ``evaluation.head.l2`` tells apart the operating points of a trial.
        """
        return _frame(trials_csv(self.config, self._front.members))

    @property
    def _front(self) -> Front:
        return find_front(self.config, read_trials(self.folder))

    def recommended(self, *, budget: float | None = None) -> "pd.DataFrame":
        """The configurations that the report recommends: what each is best at, its values and its searched keys.

        Columns such as ``robust_accuracy_expected`` hold what a model of all trials expects, by which they are chosen;
        a study of fewer than 8 finished trials has no model.

        Args:
            budget: adds the best configuration of at most this number of crop passes.
        """
        from cfamc_ray.report.contents import recommended_table  # noqa: PLC0415 (Plotly is slow to import)

        records = read_trials(self.folder)
        advice = advise(self.config, expected(self.config, records), budget=budget)
        return _frame(recommended_table(self.config, records, advice).csv())

    def report(self, *, budget: float | None = None, paper: bool = False) -> Path:
        """Write report/report.html with all figures and tables next to it, also for a running study.

        Args:
            budget: adds the best configuration of at most this number of crop passes.
            paper: whether to write every figure as PDF too, for one and two columns of a paper.

        Returns:
            Path of the page.
        """
        from cfamc_ray.report.page import write_report  # noqa: PLC0415 (matplotlib and Plotly are slow to import)

        return write_report(self.folder, budget=budget, paper=paper)

    def resume(
        self,
        *,
        overrides: Sequence[str] = (),
        costs: Path | str | None = None,
        mirror: str | None = None,
        address: str | None = None,
        verbose: bool = False,
    ) -> "Study":
        """Resume an unfinished study, or extend a finished one with a larger ``budget.trials`` in the overrides.

        Args:
            overrides: as in `run_study`.
            costs: as in `run_study`.
            mirror: as in `run_study`.
            address: as in `run_study`.
            verbose: as in `run_study`.

        Returns:
            The study with the overrides.

        Raises:
            InputError: if there is nothing to resume, or an override makes it another study.
            KeyboardInterrupt: as `run_study`.
        """
        study = self._with(overrides)
        reporter = Reporter.for_verbose(verbose)
        with mirrored(study.folder, mirror):
            if study.is_run:
                train_run(study, resume=True, address=address, detail=reporter.detail)
            else:
                models = cost_model(costs, study.config)
                run_search(study, resume=True, costs=models, address=address, reporter=reporter)
        return study

    def confirm(
        self, *, overrides: Sequence[str] = (), address: str | None = None, verbose: bool = False
    ) -> "pd.DataFrame":
        """Train the front again with fresh seeds and test it, as set by the key ``confirm``.

        Args:
            overrides: overrides such as ``confirm.seeds=5``, needed if the study does not set ``confirm``.
            address: as in `run_study`.
            verbose: as in `run_study`.

        Returns:
            The table confirm.csv: a row per candidate; no rows if nothing has finished.

        Raises:
            InputError: if ``confirm`` is not set, or the folder holds another study.
            KeyboardInterrupt: after an interruption; calling it again resumes.
        """
        study = self._with(overrides)
        if study.config.confirm is None:
            raise InputError(f"{self.folder}: nothing says how to confirm; give overrides=['confirm.seeds=5']")
        check_folder(study.config, self.folder, resume=True)
        confirmations = confirm_front(study, address=address, reporter=Reporter.for_verbose(verbose))
        return _frame(confirmation_table(confirmations, study.config).csv())

    def interpolate(
        self, *, shares: Sequence[float] = SHARES, trials: Sequence[int] = (), device: Device = "auto"
    ) -> "pd.DataFrame":
        """Make the encoders between trials that share their first epochs, which need no training, and measure them.

        Args:
            shares: of the weights of a pair's second trial, between 0 and 1.
            trials: numbers of the only trials to consider; empty for all whose encoders are kept.
            device: ``auto``, ``cpu`` or ``cuda``.

        Returns:
            A row per operating point of an interpolation that is on the front of trials and interpolations.

        Raises:
            InputError: if there are no such trials, a share is not between 0 and 1, or the images are missing.
        """
        made = interpolate_trials(self.folder, shares=shares, trials=trials, device=device, detail="quiet")
        return _frame(extend_front(self.config, read_trials(self.folder), made).table.csv())

    @property
    def is_run(self) -> bool:
        """Whether the folder is that of a single run, as `train` makes it, which has no storage of a sampler."""
        config = self.config
        one_trial = not config.space and config.budget.trials == 1
        return one_trial and config.confirm is None and not (self.folder / STORAGE).exists()

    def _with(self, overrides: Sequence[str]) -> "Study":
        tree = self.config.model_dump(mode="json")
        config = resolve_study(tree, as_list(overrides, "overrides"), source=str(self.folder))
        return Study(self.folder, found_from(config, Path()))

    def _repr_html_(self) -> str:
        """HTML for a notebook: name, counts, and the front as a figure and as a table."""
        from cfamc_ray.figures.charts import front_chart  # noqa: PLC0415 (matplotlib is slow to import)
        from cfamc_ray.figures.static import draw  # noqa: PLC0415

        image = io.BytesIO()
        draw(front_chart(self._front, title=self.config.question or self.config.name)).savefig(image, format="png")
        figure = base64.b64encode(image.getvalue()).decode()
        return (
            f"<h3>{html.escape(self.config.name)}</h3>"
            f"<p>{html.escape(counts(self.config, read_trials(self.folder)))} · {html.escape(str(self.folder))}</p>"
            f'<img alt="the front" width="{FIGURE_PIXELS}" src="data:image/png;base64,{figure}">'
            f"{self.front.to_html(index=False, na_rep='')}"
        )


def _frame(text: str) -> "pd.DataFrame":
    """Read a table from CSV, with empty cells as NaN; words such as NA stay text."""
    import pandas as pd  # noqa: PLC0415 (slow to import)

    return pd.read_csv(io.StringIO(text), keep_default_na=False, na_values=[""])
