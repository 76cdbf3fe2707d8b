"""The report as files: a page that needs nothing else, every figure, and every table."""

import json
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from cfamc_ray.config.reading import dump_study
from cfamc_ray.figures import interactive
from cfamc_ray.figures.static import save_chart, save_for_paper
from cfamc_ray.host.files import write_text
from cfamc_ray.report.contents import Report, make_report
from cfamc_ray.scaling.study import ScalingRun
from cfamc_ray.store.layout import PAGE, REPORT


def write_report(
    folder: Path, *, budget: float | None = None, scaling: ScalingRun | None = None, paper: bool = False
) -> Path:
    """Write report.html, and beside it every figure as PNG and SVG and every table as CSV, Markdown and LaTeX.

    Args:
        folder: of the study, finished or running.
        budget: crop passes that a recommended trial may take; None: no such recommendation.
        scaling: the run whose learning part the study is; None: it is read from the parent folder, if it is there.
        paper: whether to write every figure as PDF too, at the widths of one and two columns of a paper.

    Returns:
        the page's path.

    Raises:
        InputError: where the folder holds no study.
        OSError: where the report cannot be written.
    """
    report = make_report(folder, budget=budget, scaling=scaling)
    target = folder / REPORT
    target.mkdir(exist_ok=True)
    for chart in report.charts:
        save_chart(chart, target)
        if paper:
            save_for_paper(chart, target)
    for table in report.tables:
        for ending, text in (("csv", table.csv()), ("md", table.markdown()), ("tex", table.latex())):
            write_text(target / f"{table.name}.{ending}", text)
    write_text(target / PAGE, render(report))
    return target / PAGE


def render(report: Report) -> str:
    """The report as one page that needs no other file and no network."""
    templates = Environment(
        loader=PackageLoader("cfamc_ray", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return templates.get_template(PAGE).render(
        report=report,
        study=dump_study(report.config),
        environment=json.dumps(report.environment, indent=1),
        embed=lambda chart: [Markup(panel) for panel in interactive.embed(chart)],  # noqa: S704 (made by Plotly)
        script=Markup(interactive.script()),  # noqa: S704
    )
