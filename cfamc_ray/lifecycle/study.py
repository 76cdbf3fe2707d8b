"""A study in its folder as Python sees it: tables, report, notebook page; to be resumed and confirmed."""

import base64
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cfamc_ray.config.errors import InputError
from cfamc_ray.front.confirmation import confirmation_table
from cfamc_ray.front.front import Front, find_front
from cfamc_ray.lifecycle.checks import check_folder
from cfamc_ray.lifecycle.costs import cost_model
from cfamc_ray.lifecycle.plans import PlannedStudy
from cfamc_ray.lifecycle.reporting import Reporter
from cfamc_ray.lifecycle.search import confirm_front, run_search, trials_csv
from cfamc_ray.lifecycle.sources import as_list
from cfamc_ray.lifecycle.training import train_run
from cfamc_ray.space.reading import resolve_study
from cfamc_ray.store.images import found_from
from cfamc_ray.store.mirror import mirrored
from cfamc_ray.store.records import read_trials

if TYPE_CHECKING:
    import pandas as pd

FIGURE_PIXELS = 640
"""Width of the front's figure in a notebook."""


@dataclass(frozen=True)
class Study(PlannedStudy):
    """A study in its folder; every property is read from the files anew, so it is up to date."""

    @property
    def trials(self) -> "pd.DataFrame":
        """The table trials.csv: a row per trial with its status, objectives, cost and searched keys; NaN if missing."""
        return _frame(trials_csv(self.config, read_trials(self.folder)))

    @property
    def front(self) -> "pd.DataFrame":
        """The table front.csv: the finished trials that no other one dominates, best in the first objective first."""
        return _frame(trials_csv(self.config, self._front.members))

    @property
    def _front(self) -> Front:
        return find_front(self.config, read_trials(self.folder))

    def report(self, *, budget: float | None = None) -> Path:
        """Write report/report.html with every figure and table beside it, also of a study that still runs.

        Args:
            budget: crop passes that a recommended trial may take.

        Returns:
            path of the page.
        """
        from cfamc_ray.report.page import write_report  # noqa: PLC0415 (matplotlib and Plotly are slow to import)

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
        """Resume an unfinished study, or extend a finished one by a larger ``budget.trials`` among the overrides.

        Args:
            overrides: as for `run_study`, and so are the other arguments.
            costs: likewise.
            mirror: likewise.
            address: likewise.
            verbose: likewise.

        Returns:
            the study with the overrides.

        Raises:
            InputError: where there is nothing to resume, or an override makes it another study.
            KeyboardInterrupt: as for `run_study`.
        """
        study = self._with(overrides)
        reporter = Reporter.for_verbose(verbose)
        with mirrored(study.folder, mirror):
            if not study.config.space and study.config.budget.trials == 1:
                train_run(study, resume=True, address=address, detail=reporter.detail)
            else:
                models = cost_model(costs, study.config)
                run_search(study, resume=True, costs=models, address=address, reporter=reporter)
        return study

    def confirm(
        self, *, overrides: Sequence[str] = (), address: str | None = None, verbose: bool = False
    ) -> "pd.DataFrame":
        """Train the front anew with fresh seeds and test it as the key ``confirm`` says.

        Args:
            overrides: such as ``confirm={seeds: 5}``, where the study itself does not say how.
            address: as for `run_study`.
            verbose: likewise.

        Returns:
            the table confirm.csv: a row per candidate; no rows where nothing has finished.

        Raises:
            InputError: where nothing says how to confirm, or the folder holds another study.
            KeyboardInterrupt: after an interruption; calling it again resumes.
        """
        study = self._with(overrides)
        if study.config.confirm is None:
            raise InputError(f"{self.folder}: nothing says how to confirm; give overrides=['confirm={{seeds: 5}}']")
        check_folder(study.config, self.folder, resume=True)
        confirmations = confirm_front(study, address=address, reporter=Reporter.for_verbose(verbose))
        return _frame(confirmation_table(confirmations, study.config).csv())

    def _with(self, overrides: Sequence[str]) -> "Study":
        tree = self.config.model_dump(mode="json")
        config = resolve_study(tree, as_list(overrides, "overrides"), source=str(self.folder))
        return Study(self.folder, found_from(config, Path()))

    def _repr_html_(self) -> str:
        """What a notebook shows: name, counts, the front as a figure and as a table."""
        from cfamc_ray.figures.charts import front_chart  # noqa: PLC0415 (matplotlib is slow to import)
        from cfamc_ray.figures.static import draw  # noqa: PLC0415
        from cfamc_ray.report.contents import counts  # noqa: PLC0415

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
    """A table from CSV: numbers as numbers, and an empty cell as NaN; no word in it means something else."""
    import pandas as pd  # noqa: PLC0415 (slow to import)

    return pd.read_csv(io.StringIO(text), keep_default_na=False, na_values=[""])
