"""A study in one file: what to run, what it costs, how sure that is, with every figure and table."""

import json
import math
import shlex
from collections.abc import Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from cfamc_ray.config.reading import dump_study, read_resolved
from cfamc_ray.config.scaling import ScalingConfig
from cfamc_ray.config.study import StudyConfig
from cfamc_ray.figures import interactive
from cfamc_ray.figures.chart import Chart
from cfamc_ray.figures.charts import (
    curves_chart,
    front_chart,
    growth_chart,
    importance_chart,
    published_chart,
    slices_chart,
    spending_chart,
)
from cfamc_ray.figures.scaling import scaling_charts
from cfamc_ray.figures.static import save_chart
from cfamc_ray.front.effects import effects_table, find_effects
from cfamc_ray.front.front import find_front
from cfamc_ray.front.growth import find_growth, find_spending
from cfamc_ray.front.published import published_results
from cfamc_ray.front.recommendations import Advice, advise, cost_ladder, headline
from cfamc_ray.host.files import write_text
from cfamc_ray.report.answer import answer
from cfamc_ray.scaling.study import CONFIG, ScalingRun, conclusions, read_run
from cfamc_ray.scaling.system import system_conclusions
from cfamc_ray.store.cells import system_table
from cfamc_ray.store.content import content_of
from cfamc_ray.store.records import (
    TrialRecord,
    csv_rows,
    read_config,
    read_environment,
    read_trials,
    table_columns,
    trials_table,
    with_cost,
)
from cfamc_ray.store.tables import Table

SYSTEM_COLUMNS = (
    *("crop_passes_per_second", "seconds_per_update", "peak_memory_bytes", "mfu"),
    *("communication_share", "weak_efficiency", "strong_efficiency"),
)
"""Of training steps; system.csv has all."""


class Section(NamedTuple):
    """A part of the report: a heading, a remark, figures, tables; what was found, which stands before the figures."""

    anchor: str
    title: str
    remark: str = ""
    charts: Sequence[Chart] = ()
    tables: Sequence[Table] = ()
    sentences: Sequence[str] = ()


class Report(NamedTuple):
    """Everything that the page shows."""

    config: StudyConfig
    status: str
    sentences: Sequence[str]
    recommended: Table
    commands: Sequence[tuple[str, str]]
    """What it trains, and the command."""
    sections: Sequence[Section]
    environment: dict[str, Any]

    @property
    def charts(self) -> list[Chart]:
        """All figures."""
        return [chart for section in self.sections for chart in section.charts]

    @property
    def tables(self) -> list[Table]:
        """All tables."""
        return [self.recommended, *(table for section in self.sections for table in section.tables)]


def write_report(folder: Path, *, budget: float | None = None, scaling: ScalingRun | None = None) -> Path:
    """Write report.html, and beside it every figure as PNG and SVG and every table as CSV, Markdown and LaTeX.

    Args:
        folder: of the study, finished or running.
        budget: crop passes that a recommended trial may take; None for no such recommendation.
        scaling: the run whose learning part the study is, where it has been read; else it is looked for.

    Returns:
        the page's path.

    Raises:
        InputError: where the folder holds no study.
        OSError: where the report cannot be written.
    """
    report = make_report(folder, budget=budget, scaling=scaling)
    target = folder / "report"
    target.mkdir(exist_ok=True)
    for chart in report.charts:
        save_chart(chart, target)
    for table in report.tables:
        for ending, text in (("csv", table.csv()), ("md", table.markdown()), ("tex", table.latex())):
            write_text(target / f"{table.name}.{ending}", text)
    write_text(target / "report.html", render(report))
    return target / "report.html"


def make_report(folder: Path, *, budget: float | None = None, scaling: ScalingRun | None = None) -> Report:
    """Compute what the report shows.

    Args:
        folder: of the study.
        budget: as for `write_report`.
        scaling: likewise.

    Raises:
        InputError: where the folder holds no study.
    """
    config, records = read_config(folder), read_trials(folder)
    front, growth, spending = find_front(config, records), find_growth(config, records), find_spending(records)
    effects, advice = find_effects(config, records), advise(config, records, budget=budget)
    confirmed = _read_csv(folder / "confirm.csv", ["seeds"], or_empty=["front_probability"])
    attained = _read_csv(folder / "attainment.csv", ["attained_by", *config.objectives])
    published = published_results(config)
    comparable = published and front.members and published[0].values.keys() <= front.objectives.keys()
    ended_early = [r for r in records if r.status in ("stopped", "failed", "infeasible")]
    columns = table_columns(config)
    reasonless = [name for name in columns if name != "reason"]
    sections = [
        Section(
            "front",
            "The front",
            "Finished trials on validation images; those on the front carry their number. "
            + ("In orange what the confirming seeds attain on test images. " if attained else ""),
            [
                front_chart(front, title=config.question or config.name, attained=attained),
                *([published_chart(front, published)] if comparable else []),
            ],
            [
                Table(
                    "front",
                    "On the front",
                    [name for name in reasonless if name not in ("status", "epochs")],
                    trials_table(config, front.members),
                ),
                *(
                    [Table("confirm", "With fresh seeds, on test images", list(confirmed[0]), confirmed)]
                    if confirmed
                    else []
                ),
            ],
        ),
        Section(
            "cost",
            "What more cost buys",
            f"Each row is the best {headline(config).replace('_', ' ')} up to its cost.",
            tables=[_ladder(config, cost_ladder(config, records))],
        ),
        Section("growth", "How the front grew", charts=[growth_chart(growth)]),
        Section(
            "effects",
            "What moves what",
            "Trends are least squares over all searched keys at once, on each key's own scale; an interval that leaves "
            "out zero is significant. Importance (PED-ANOVA) compares the better trials with all, so it leans on where "
            "the search has looked.",
            [importance_chart(effects), slices_chart(effects, config.objectives)],
            [effects_table(effects)],
        ),
        Section("curves", "Learning curves", charts=[curves_chart(records, front.members)]),
        Section(
            "spending",
            "Where the compute went",
            charts=[spending_chart(spending)],
            tables=[
                Table(
                    "spending",
                    "By how trials ended",
                    list(spending[0]._fields) if spending else ["status"],
                    [s._asdict() for s in spending],
                )
            ],
        ),
        Section(
            "early",
            "Stopped, failed and refused trials",
            "" if ended_early else "None.",
            tables=[Table("ended_early", "With their reasons", columns, trials_table(config, ended_early))]
            if ended_early
            else [],
        ),
        *_scaling_section(scaling or _scaling_run(folder.parent)),
        Section(
            "trials",
            "All trials",
            tables=[Table("trials", "All trials", reasonless, trials_table(config, records))],
        ),
    ]
    return Report(
        config=config,
        status=counts(config, records),
        sentences=answer(config, records, advice=advice, effects=effects, growth=growth, confirmed=confirmed),
        recommended=_recommended(config, advice),
        commands=[(f"{one.role} (trial {one.record.number})", _command(folder, one)) for one in advice],
        sections=sections,
        environment=dict(read_environment(folder)),
    )


def render(report: Report) -> str:
    """The report as one page that needs nothing else."""
    templates = Environment(
        loader=PackageLoader("cfamc_ray", "figures"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = templates.get_template("report.html")
    return page.render(
        report=report,
        study=dump_study(report.config),
        environment=json.dumps(report.environment, indent=1),
        embed=lambda chart: [Markup(panel) for panel in interactive.embed(chart)],  # noqa: S704 (made by Plotly)
        script=Markup(interactive.script()),  # noqa: S704
    )


def _scaling_run(folder: Path) -> ScalingRun | None:
    return read_run(read_resolved(ScalingConfig, folder / CONFIG), folder) if (folder / CONFIG).is_file() else None


def _scaling_section(found: ScalingRun | None) -> list[Section]:
    """What the scaling study says whose learning part this is; nothing for other studies."""
    if found is None:
        return []
    named = list(found.config.cells[0].values) if found.measured else []
    columns = ["status", *named, *SYSTEM_COLUMNS]
    return [
        Section(
            "scaling",
            "How it grows",
            sentences=[*(system_conclusions(found.system) if found.measured else []), *conclusions(found.learning)],
            charts=scaling_charts(found),
            tables=[Table("system", "Training steps", columns, system_table(found.config, found.cells))]
            if found.measured
            else [],
        )
    ]


def counts(config: StudyConfig, records: Sequence[TrialRecord]) -> str:
    """How many trials of a study ended how, in words."""
    by_status = {
        status: sum(record.status == status for record in records)
        for status in ("finished", "running", "stopped", "failed", "infeasible")
    }
    words = [f"{number} {status}" for status, number in by_status.items() if number]
    return f"{', '.join(words) or 'no trial yet'} of {config.budget.trials} trials"


def _ladder(config: StudyConfig, records: Sequence[TrialRecord]) -> Table:
    columns = ["trial", *with_cost(config.objectives), "train_seconds", *config.space]
    return Table("ladder", "The best at each cost", columns, _numbered(config, records))


def _recommended(config: StudyConfig, advice: Sequence[Advice]) -> Table:
    rows = _numbered(config, [one.record for one in advice])
    return Table(
        "recommended",
        "Recommended configurations",
        ["what", "trial", *with_cost(config.objectives), *config.space],
        [{"what": one.role, **row} for one, row in zip(advice, rows, strict=True)],
    )


def _numbered(config: StudyConfig, records: Sequence[TrialRecord]) -> list[dict[str, Any]]:
    """Rows of the table of trials, each with its number."""
    return [{"trial": r.number, **row} for r, row in zip(records, trials_table(config, records), strict=True)]


def _command(folder: Path, advice: Advice) -> str:
    return shlex.join(["python", "-m", "cfamc_ray.train", "--trial", str(folder / advice.record.trial_id)])


def _read_csv(path: Path, numbers: Collection[str], *, or_empty: Collection[str] = ()) -> list[dict[str, Any]]:
    """Rows with their numbers as numbers, None for an empty cell; none where the file is missing or damaged.

    Args:
        path: of the file.
        numbers: columns that must hold one in every row.
        or_empty: columns that must hold one or nothing.
    """
    return content_of(path, partial(_rows_of, numbers=numbers, or_empty=or_empty)) or []


def _rows_of(text: str, *, numbers: Collection[str], or_empty: Collection[str]) -> list[dict[str, Any]]:
    rows = csv_rows(text)
    if not all({*numbers, *or_empty} <= row.keys() for row in rows):
        raise ValueError("lacks a column")
    found = [{key: _value(cell) for key, cell in row.items()} for row in rows]
    wanted = [row[name] for row in found for name in (*numbers, *or_empty) if name in numbers or row[name] is not None]
    if not all(isinstance(value, float) and math.isfinite(value) for value in wanted):
        raise ValueError("holds no number where one must be")
    return found


def _value(text: str) -> float | str | None:
    try:
        return float(text) if text else None
    except ValueError:
        return text
