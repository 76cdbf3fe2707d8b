"""What the report of a study says and shows: the answer, recommendations, and a section for each topic."""

import math
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cfamc_ray.config.study import StudyConfig
from cfamc_ray.figures.chart import Chart, Parallel
from cfamc_ray.figures.charts import curves_chart, growth_chart
from cfamc_ray.formatting import format_metric
from cfamc_ray.front.changes import find_changes
from cfamc_ray.front.curves import find_curves
from cfamc_ray.front.effects import find_effects
from cfamc_ray.front.front import find_front, name_of
from cfamc_ray.front.growth import find_growth, find_spending
from cfamc_ray.front.progress import counts
from cfamc_ray.front.recommendations import Advice, Price, advise, price_list
from cfamc_ray.front.uncertainty import noise_groups
from cfamc_ray.metrics import find_metric
from cfamc_ray.report.answer import Confirmed, answer
from cfamc_ray.report.sections import (
    Section,
    confirm_table,
    cost_section,
    earlier_section,
    early_section,
    effects_section,
    front_section,
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
    advice, groups = advise(config, records, budget=budget), noise_groups(front)
    confirm = confirm_table(config, folder)
    confirmed = [Confirmed(int(row["seeds"]), row["front_probability"] or 0.0) for row in confirm.rows]
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
        recommended=_recommended(config, advice),
        commands=[(f"{one.role} ({name_of(one.record)})", _command(folder, one.record)) for one in advice],
        choices=_choices(config, folder, price_list(config, records)),
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
            *([scaling_section(run)] if run else []),
            trials_section(config, records),
        ],
        environment=environment,
    )


def _recommended(config: StudyConfig, advice: Sequence[Advice]) -> Table:
    metrics, records = with_cost(config.objectives), [one.record for one in advice]
    columns = [Column("what"), Column("trial"), *map(metric_column, metrics), *settings_columns(config, records)]
    rows = numbered(config, records)
    named = [{"what": one.role, **row} for one, row in zip(advice, rows, strict=True)]
    return Table("recommended", "Recommended configurations", columns, named)


def _choices(config: StudyConfig, folder: Path, prices: Sequence[Price]) -> list[Choice]:
    """The best at each price; none where one point is the best at all of them."""
    return [_choice(config, folder, price) for price in prices] if len(prices) > 1 else []


def _choice(config: StudyConfig, folder: Path, price: Price) -> Choice:
    record, names = price.record, with_cost(config.objectives)
    x, y = (record.value(name) for name in names[:2])
    to = f"to {price.high:.2g}" if math.isfinite(price.high) else "on"
    values = ", ".join(format_metric(name, record.value(name)) for name in names)
    words = f"From {price.low:.2g} {to}: {name_of(record)}, with {values}"
    return Choice(price.low, x, y, words, _command(folder, record))


def _command(folder: Path, record: TrialRecord) -> str:
    """The command that trains a configuration again, at its operating point if the record stands for one."""
    at_point = [] if record.l2 is None else ["--set", f"{L2}={record.l2!r}"]
    return shlex.join(["cfamc", "train", "--trial", str(folder / record.trial_id), *at_point])
