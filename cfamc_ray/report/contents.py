"""What the report of a study says and shows: the answer, recommendations, and a section for each topic."""

import math
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cfamc_ray.config.study import StudyConfig
from cfamc_ray.figures.chart import Chart, Parallel
from cfamc_ray.figures.charts import growth_chart
from cfamc_ray.figures.curves import curves_chart
from cfamc_ray.front.changes import find_changes
from cfamc_ray.front.curves import find_curves
from cfamc_ray.front.effects import find_effects
from cfamc_ray.front.expectation import as_measured, expected
from cfamc_ray.front.front import find_front, name_of
from cfamc_ray.front.growth import find_growth, find_spending
from cfamc_ray.front.progress import counts
from cfamc_ray.front.recommendations import Advice, Price, advise, price_list
from cfamc_ray.front.uncertainty import noise_groups
from cfamc_ray.metrics import find_metric
from cfamc_ray.report.answer import Confirmed, answer, described
from cfamc_ray.report.sections import (
    Section,
    confirm_table,
    cost_section,
    earlier_section,
    early_section,
    effects_section,
    front_section,
    interpolation_section,
    numbered,
    of_balanced,
    scaling_run,
    scaling_section,
    spending_section,
    trials_section,
)
from cfamc_ray.scaling.study import ScalingRun
from cfamc_ray.store.environment import read_environment
from cfamc_ray.store.records import TrialRecord, read_config, read_trials
from cfamc_ray.store.tables import L2, Column, Table, metric_column
from cfamc_ray.store.trial_tables import settings_columns, with_cost

EXPECTED = (
    "The best of many noisy values is often a lucky one, so configurations are chosen by expected accuracies: those of "
    "a model (Gaussian process) of all finished trials, in which the neighbours of a trial in the space have a say. "
)
"""How recommended configurations are chosen where a model is fitted."""

NEARLY_BEST = (
    "Of the points that are within one standard error of the best in an objective, the one with the best compromise of "
    "all objectives is taken."
)
"""What counts as the best."""


class Choice(NamedTuple):
    """The best from a price of the first objective on, until that of the next choice."""

    low: float
    """The price, in units of the second objective."""
    x: float
    y: float
    """Its place in the figure of the front."""
    words: str
    command: str


class Report(NamedTuple):
    """Everything that the page shows."""

    config: StudyConfig
    status: str
    sentences: Sequence[str]
    recommended: Table
    remark: str
    """How the configurations were chosen."""
    commands: Sequence[tuple[str, str]]
    """The role of each recommended configuration, and the command that trains it."""
    choices: Sequence[Choice]
    """The best by the price of the first objective; empty where there is nothing to choose."""
    sections: Sequence[Section]
    environment: dict[str, Any]

    @property
    def charts(self) -> list[Chart | Parallel]:
        """All figures."""
        return [chart for section in self.sections for chart in section.charts]

    @property
    def tables(self) -> list[Table]:
        """All tables."""
        return [self.recommended, *(table for section in self.sections for table in section.tables)]

    @property
    def begun(self) -> str:
        """Date and time at which the study began; empty where they are not known."""
        return str(self.environment.get("begun") or self.environment.get("date") or "")

    @property
    def traded(self) -> list[str]:
        """Labels of the two objectives between which the choices choose."""
        return [find_metric(name).label for name in list(self.config.objectives)[:2]]


def make_report(folder: Path, *, budget: float | None = None, scaling: ScalingRun | None = None) -> Report:
    """Compute what the report shows; arguments as for `write_report`.

    Raises:
        InputError: where the folder holds no study.
    """
    config, records, environment = read_config(folder), read_trials(folder), dict(read_environment(folder))
    front, growth, effects = find_front(config, records), find_growth(config, records), find_effects(config, records)
    believed, groups = expected(config, records), noise_groups(front)
    advice = advise(config, believed, budget=budget)
    confirm = confirm_table(config, folder)
    confirmed = [Confirmed(int(row["seeds"]), row.get("front_probability", 0.0)) for row in confirm.rows]
    run = scaling or scaling_run(folder.parent)
    before = environment.pop("ended_before", None)
    return Report(
        config=config,
        status=counts(config, records),
        sentences=answer(
            config,
            records,
            advice=advice,
            effects=effects,
            growth=growth,
            curves=find_curves(config, records),
            groups=groups,
            confirmed=confirmed,
            changes=find_changes(config, records, before) if before else None,
        ),
        recommended=recommended_table(config, records, advice),
        remark=(EXPECTED if believed != records else "") + NEARLY_BEST,
        commands=[(f"{one.role} ({name_of(one.record)})", _command(folder, one.record)) for one in advice],
        choices=_choices(config, folder, records, price_list(config, believed)),
        sections=[
            front_section(config, folder, front, groups, confirm, lambda record: _command(folder, record)),
            cost_section(config, records),
            Section("growth", "How the front grew", charts=[growth_chart(growth)]),
            effects_section(config, effects, of_balanced("Effects are", records)),
            Section(
                "curves",
                "Learning curves",
                of_balanced("Lines are", records),
                charts=[curves_chart(records, front.members)],
            ),
            spending_section(find_spending(records)),
            early_section(config, records),
            *earlier_section(folder),
            *interpolation_section(config, folder, records),
            *([scaling_section(run)] if run else []),
            trials_section(config, records),
        ],
        environment=environment,
    )


def recommended_table(config: StudyConfig, records: Sequence[TrialRecord], advice: Sequence[Advice]) -> Table:
    """The recommended configurations: what each is best at, measured and expected values, and the searched keys.

    Args:
        config: of the study.
        records: of its trials.
        advice: of `advise`, by expected values.
    """
    metrics, points = with_cost(config.objectives), [one.record for one in advice]
    measured = [as_measured(records, point) for point in points]
    differing = [n for n in metrics if any(p.value(n) != m.value(n) for p, m in zip(points, measured, strict=True))]
    columns = [
        *map(Column, ("what", "trial")),
        *map(metric_column, metrics),
        *(metric_column(name, "expected") for name in differing),
        *settings_columns(config, points),
    ]
    rows = [
        {"what": one.role, **row, **{f"{name}_expected": one.record.value(name) for name in differing}}
        for one, row in zip(advice, numbered(config, measured), strict=True)
    ]
    return Table("recommended", "Recommended configurations", columns, rows)


def _choices(
    config: StudyConfig, folder: Path, records: Sequence[TrialRecord], prices: Sequence[Price]
) -> list[Choice]:
    """The best at each price; none where one point is the best at all of them."""
    return [_choice(config, folder, records, price) for price in prices] if len(prices) > 1 else []


def _choice(config: StudyConfig, folder: Path, records: Sequence[TrialRecord], price: Price) -> Choice:
    measured, names = as_measured(records, price.record), with_cost(config.objectives)
    x, y = (measured.value(name) for name in names[:2])
    to = f"to {price.high:.2g}" if math.isfinite(price.high) else "on"
    words = f"From {price.low:.2g} {to}: {name_of(measured)}, with {described(config, records, price.record)}"
    return Choice(price.low, x, y, words, _command(folder, measured))


def _command(folder: Path, record: TrialRecord) -> str:
    """The command that trains a configuration again, at its operating point if the record stands for one."""
    at_point = [] if record.l2 is None else ["--set", f"{L2}={record.l2!r}"]
    return shlex.join(["cfamc", "train", "--trial", str(folder / record.trial_id), *at_point])
