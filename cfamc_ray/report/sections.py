"""The sections of a report, one for each topic: sentences, figures and tables."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from string import ascii_lowercase
from typing import Any, NamedTuple

from cfamc_ray.config.radii import norms_of
from cfamc_ray.config.reading import read_resolved
from cfamc_ray.config.scaling import ScalingConfig
from cfamc_ray.config.study import StudyConfig
from cfamc_ray.figures.chart import Chart, Parallel
from cfamc_ray.figures.charts import (
    front_chart,
    importance_chart,
    published_chart,
    slices_chart,
    spending_chart,
)
from cfamc_ray.figures.parallel import parallel_chart
from cfamc_ray.figures.scaling import scaling_charts
from cfamc_ray.front.confirmation import confirmation_columns
from cfamc_ray.front.effects import Effect, effects_table
from cfamc_ray.front.finalists import LAST_MEASURED
from cfamc_ray.front.front import Front
from cfamc_ray.front.growth import Spent
from cfamc_ray.front.interpolation import extend_front
from cfamc_ray.front.published import published_results
from cfamc_ray.front.recommendations import cost_ladder, headline
from cfamc_ray.front.scales import find_scales
from cfamc_ray.metrics import find_metric
from cfamc_ray.scaling.study import ScalingRun, conclusions, read_run
from cfamc_ray.scaling.system import system_conclusions
from cfamc_ray.store.cells import system_table
from cfamc_ray.store.csv_files import read_csv
from cfamc_ray.store.earlier import RANKING
from cfamc_ray.store.interpolations import read_interpolations
from cfamc_ray.store.layout import ATTAINMENT, CONFIRM_TABLE, PRIOR_TABLE, SCALING
from cfamc_ray.store.records import TrialRecord
from cfamc_ray.store.tables import Column, Table, metric_column, setting_column
from cfamc_ray.store.trial_tables import settings_columns, trials_table, with_cost

SYSTEM_COLUMNS = (
    *("crop_passes_per_second", "seconds_per_update", "peak_memory_bytes", "mfu"),
    *("communication_share", "weak_efficiency", "strong_efficiency"),
)
"""Columns of the training steps that the page shows; system.csv has all."""
OPERATING_POINTS = "A thin line joins the operating points of a trial, which differ in the probe's L2 strength. "
GROUPS = (
    "Bars are 95 % intervals from the number of images alone. Noise cannot tell apart the points of a noise group, "
    "which a broad line joins: in no objective are their intervals disjoint. The same may hold for the last point of a "
    "group and the first of the next. "
)
"""Explanation of the error bars and of the column of noise groups."""

BRUSH = (
    "Drag along an axis to select an interval: the lines and the rows below it are those of the trials within it. A "
    "click on the axis ends the selection; the name of an axis can be dragged to another place. "
)
"""What a person can do with parallel coordinates."""


class Section(NamedTuple):
    """A part of the report: a heading, a remark, sentences, figures and tables, in this order."""

    anchor: str
    title: str
    remark: str = ""
    charts: Sequence[Chart | Parallel] = ()
    tables: Sequence[Table] = ()
    sentences: Sequence[str] = ()


def of_balanced(what: str, records: Sequence[TrialRecord]) -> str:
    """A remark on what is shown at one operating point alone; empty where no trial has any."""
    if not any(record.operating_points for record in records):
        return ""
    return f"{what} of each trial's balanced operating point, which has the largest sum of clean and robust accuracy. "


def front_section(
    config: StudyConfig,
    folder: Path,
    front: Front,
    groups: Sequence[Sequence[TrialRecord]],
    confirm: Table,
    command_of: Callable[[TrialRecord], str],
) -> Section:
    """Figure and table of the front; published and confirmed results where there are any."""
    attained = read_csv(folder / ATTAINMENT, ["attained_by", *config.objectives])
    published = published_results(config)
    comparable = published and front.members and published[0].values.keys() <= front.objectives.keys()
    members = trials_table(config, front.members).without("status", "reason", "epochs")
    return Section(
        "front",
        "The front",
        "Finished trials on validation images; those on the front carry their number. "
        + (OPERATING_POINTS if front.at_operating_points else "")
        + (GROUPS if groups else "")
        + ("In orange what the confirming seeds attain on test images. " if attained else ""),
        [
            front_chart(
                front,
                title=config.question or config.name,
                attained=attained,
                groups=groups,
                command_of=command_of,
            ),
            *([published_chart(front, published)] if comparable else []),
        ],
        [
            _with_groups(members, groups)._replace(name="front", title="On the front"),
            *([confirm] if confirm.rows else []),
        ],
    )


def _with_groups(members: Table, groups: Sequence[Sequence[TrialRecord]]) -> Table:
    """The table with a column of the groups' letters: a, b, …, z, aa, bb, …; without groups as it is."""
    letters = [(1 + place // 26) * ascii_lowercase[place % 26] for place, group in enumerate(groups) for _ in group]
    if not letters:
        return members
    rows = [{**row, "noise group": letter} for row, letter in zip(members.rows, letters, strict=True)]
    trial, *others = members.columns
    return members._replace(columns=[trial, Column("noise group"), *others], rows=rows)


def confirm_table(config: StudyConfig, folder: Path) -> Table:
    """confirm.csv; without rows where there is none."""
    rows = read_csv(folder / CONFIRM_TABLE, ["seeds"], or_empty=["front_probability"])
    typed = [
        *confirmation_columns(config.objectives, LAST_MEASURED),
        *(setting_column(key, norms_of(config)) for key in config.space),
    ]
    columns = {column.name: column for column in typed}
    names = list(rows[0]) if rows else []
    present = [{name: value for name, value in row.items() if value is not None} for row in rows]
    return Table("confirm", "With fresh seeds, on test images", [columns.get(n, Column(n)) for n in names], present)


def cost_section(config: StudyConfig, records: Sequence[TrialRecord]) -> Section:
    """The best result up to each cost."""
    names = [*with_cost(config.objectives), "train_seconds"]
    best_at_cost = cost_ladder(config, records)
    columns = [Column("trial"), *map(metric_column, names), *settings_columns(config, best_at_cost)]
    ladder = Table("ladder", "The best at each cost", columns, numbered(config, best_at_cost))
    best = find_metric(headline(config)).label
    return Section("cost", "What more cost buys", f"Each row is the best {best} up to its cost.", tables=[ladder])


def effects_section(config: StudyConfig, effects: Sequence[Effect], remark: str) -> Section:
    """What the keys change; the remark says at which operating points."""
    return Section(
        "effects",
        "Effects of the keys",
        remark
        + "Trends are least squares over all searched keys at once, on each key's own scale; a trend is significant if "
        "its 95 % interval excludes zero. Importance (PED-ANOVA) compares the better trials with all trials, so it "
        "depends on where the search has looked.",
        [importance_chart(effects), slices_chart(effects, config.objectives)],
        [effects_table(effects)],
    )


def spending_section(spending: Sequence[Spent]) -> Section:
    """The compute by how trials ended."""
    metrics = ("train_seconds", "eval_seconds", "overhead_seconds", "crop_passes", "flops")
    columns = [Column("status"), Column("trials"), *map(metric_column, metrics)]
    table = Table("spending", "By the status of the trials", columns, [spent._asdict() for spent in spending])
    return Section("spending", "Where the compute went", charts=[spending_chart(spending)], tables=[table])


def early_section(config: StudyConfig, records: Sequence[TrialRecord]) -> Section:
    """The trials that did not finish, with their reasons."""
    early = trials_table(config, [r for r in records if r.status in ("stopped", "failed", "infeasible")])
    table = early._replace(name="ended_early", title="With their reasons")
    title = "Stopped, failed and refused trials"
    return Section("early", title, tables=[table]) if early.rows else Section("early", title, "None.")


def earlier_section(folder: Path) -> list[Section]:
    """How well earlier studies rank the trials; empty where there is no such study."""
    rows = read_csv(folder / PRIOR_TABLE, ["trials", "compared", "tau"])
    named = [{**row, "objective": find_metric(row["objective"]).label} for row in rows]
    table = Table("prior", "Rank correlations", RANKING, named)
    remark = (
        "Kendall's τ between the trials' values and what the earlier study alone predicts for them: 1 for the same "
        "order, 0 for an unrelated one. Most of these trials lie near the front, where the search has put them and an "
        "order is hard to predict; over the whole space τ is larger. "
    )
    return [Section("earlier", "What earlier studies knew", remark, tables=[table])] if rows else []


def interpolation_section(config: StudyConfig, folder: Path, records: Sequence[TrialRecord]) -> list[Section]:
    """What encoders between trials add to the front; empty where `cfamc interpolate` has made none."""
    made = read_interpolations(folder)
    if not made:
        return []
    extended = extend_front(config, records, made)
    remark = (
        "An interpolation is an encoder whose weights lie between those of two trials with common first epochs; it was "
        "not trained. The tables and figures above are without them. "
    )
    tables = [extended.table] if extended.members else []
    return [Section("interpolations", "Between trials", remark, tables=tables, sentences=[extended.sentence])]


def scaling_run(folder: Path) -> ScalingRun | None:
    """The scaling study in a folder, if it holds one."""
    return read_run(read_resolved(ScalingConfig, folder / SCALING), folder) if (folder / SCALING).is_file() else None


def scaling_section(run: ScalingRun) -> Section:
    """What the scaling study shows whose learning part this study is."""
    table = system_table(run.config, run.cells)
    shown = {"status", *(run.config.cells[0].values if run.measured else ()), *SYSTEM_COLUMNS}
    return Section(
        "scaling",
        "Scaling",
        sentences=[*(system_conclusions(run.system) if run.measured else []), *conclusions(run.learning)],
        charts=scaling_charts(run),
        tables=[table.without(*({*table.names} - shown))] if run.measured else [],
    )


def trials_section(config: StudyConfig, records: Sequence[TrialRecord]) -> Section:
    """All trials, as lines across their keys and results, and as a table."""
    table = trials_table(config, records).without("reason")
    complete = [r for r in records if r.status == "finished" and all(map(math.isfinite, r.values(config.objectives)))]
    ids = [record.trial_id for record in complete]
    chart = parallel_chart(find_scales(config, complete), ids, headline=headline(config))
    return Section("trials", table.title, of_balanced("Lines are", complete) + (BRUSH if ids else ""), [chart], [table])


def numbered(config: StudyConfig, records: Sequence[TrialRecord]) -> list[Mapping[str, Any]]:
    """Rows of the table of trials, each with its number."""
    return [{"trial": r.number, **row} for r, row in zip(records, trials_table(config, records).rows, strict=True)]
