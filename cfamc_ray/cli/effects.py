"""What moves the objectives of a study, or what predicts robustness: cfamc effects runs/STUDY … [--mechanism]."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from cfamc_ray.cli.command import command_parser, exit_code, writing
from cfamc_ray.config.errors import InputError
from cfamc_ray.figures.chart import Chart
from cfamc_ray.figures.charts import importance_chart, slices_chart
from cfamc_ray.figures.mechanism import mechanism_chart
from cfamc_ray.figures.static import draw, save_figure
from cfamc_ray.front.effects import effects_table, find_effects
from cfamc_ray.front.mechanism import find_relations, label_of, mechanism_table, recorded_values
from cfamc_ray.host.files import write_text
from cfamc_ray.lifecycle.checks import warn_of_damage
from cfamc_ray.store.layout import REPORT
from cfamc_ray.store.records import read_config, read_trials


def main(argv: Sequence[str] | None = None, *, prog: str = "cfamc effects") -> int:
    """Read, compute, print, draw; the exit code is 2 for bad input."""
    arguments = build_parser(prog).parse_args(argv)
    show = _show_mechanism if arguments.mechanism else _show_effects
    return exit_code(lambda: show(arguments.studies, arguments.out or arguments.studies[0] / REPORT))


def build_parser(prog: str) -> argparse.ArgumentParser:
    """The options of the command."""
    parser = command_parser(
        prog,
        "Which searched key moves which objective: importances, and trends with their intervals. With --mechanism: "
        "whether the loss, its terms and the measures of the encoder predict robustness.",
        {
            "runs/quickstart": "print them, and draw them into the study's report",
            "runs/ONE runs/OTHER --mechanism": "the correlations of each study, and of both together",
        },
    )
    parser.add_argument("studies", nargs="+", type=Path, metavar="STUDY", help="the study's folder")
    parser.add_argument(
        "--mechanism", action="store_true", help="correlate recorded values with robustness; takes several studies"
    )
    parser.add_argument(
        "--out", type=Path, metavar="FOLDER", help="where the files go (report, in the folder of the first study)"
    )
    return parser


def _show_effects(studies: Sequence[Path], folder: Path) -> int:
    if len(studies) > 1:
        raise InputError(f"effects: takes one study, not {len(studies)}; several only with --mechanism")
    config = read_config(studies[0])
    warn_of_damage(studies[0])
    effects = find_effects(config, read_trials(studies[0]))
    print(effects_table(effects).markdown(), end="")
    _draw(folder, importance_chart(effects), slices_chart(effects, config.objectives))
    return 0


def _show_mechanism(studies: Sequence[Path], folder: Path) -> int:
    if len({study.resolve() for study in studies}) < len(studies):
        raise InputError("effects --mechanism: a study is given twice; name each folder once")
    for study in studies:
        warn_of_damage(study)
    relations = find_relations([(read_config(study), read_trials(study)) for study in studies])
    table = mechanism_table(relations)
    print(table.markdown(), end="")
    missing = [label_of(name) for name in recorded_values() if name not in {one.measured for one in relations}]
    if missing:
        print(f"Not measured by any finished trial: {', '.join(missing)}.")
    _draw(folder, mechanism_chart(relations))
    with writing(folder):
        write_text(folder / f"{table.name}.csv", table.csv())
    print(folder / f"{table.name}.csv")
    return 0


def _draw(folder: Path, *charts: Chart) -> None:
    with writing(folder):
        for chart in charts:
            save_figure(draw(chart), folder / f"{chart.name}.png")
    print(*(folder / f"{chart.name}.png" for chart in charts), sep="\n")
