"""Search a space for the front: python -m cfamc_ray.tune --space search_spaces/quickstart.yaml."""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from cfamc_ray.config.errors import InputError
from cfamc_ray.config.reading import dump_study, find_space, read_study
from cfamc_ray.config.study import StudyConfig
from cfamc_ray.study.front import find_front
from cfamc_ray.study.records import (
    TrialFolder,
    TrialRecord,
    csv_text,
    read_config,
    read_trials,
    table_columns,
    trials_table,
    write_text,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, check, run, print; the exit code is 0 with a front, 1 without, 2 for bad input, 130 after Ctrl-C."""
    arguments = _parser().parse_args(argv)
    try:
        return _tune(arguments)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m cfamc_ray.tune",
        description="Search a space of trials for the front of its objectives, with Ray Tune and Optuna.",
    )
    parser.add_argument("--space", required=True, metavar="FILE", help="a YAML file, or the bare name of a given space")
    parser.add_argument("--out", type=Path, default=Path("runs"), metavar="DIR", help="where studies lie (runs)")
    parser.add_argument("--trials", type=int, metavar="N", help="how many trials; short for --set budget.trials=N")
    parser.add_argument("--resume", action="store_true", help="go on with an unfinished study")
    parser.add_argument("--address", metavar="auto|HOST:PORT", help="of a running Ray cluster")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides", help="override a key of the space"
    )
    parser.add_argument("--dry-run", action="store_true", help="print the resolved study and its cost, train nothing")
    return parser


def _tune(arguments: argparse.Namespace) -> int:
    trials = [] if arguments.trials is None else [f"budget.trials={arguments.trials}"]
    config = _with_absolute_path(read_study(find_space(arguments.space), [*arguments.overrides, *trials]))
    folder = (arguments.out / config.name).resolve()
    if arguments.dry_run:
        _print_plan(config)
        return 0
    if (folder / "study.yaml").exists():
        _check_same_study(config, folder)
        records = read_trials(folder)
        ended = sum(record.ended for record in records)
        if records and ended < config.budget.trials and not arguments.resume:
            raise InputError(
                f"{folder}: holds this study with {ended} of {config.budget.trials} trials ended; "
                "type the command again with --resume to go on, or name another folder with --out"
            )
        if ended >= config.budget.trials:
            return _finish(config, folder)
    elif arguments.resume:
        raise InputError(f"{folder}: there is no study to resume; leave out --resume to begin one")
    from cfamc_ray.data.splits import load_splits  # noqa: PLC0415 (torch is slow to import, and not needed above)

    load_splits(config.trial.data)  # here, so that bad data is refused and a download happens once, before any trial
    from cfamc_ray.orchestration.run import run_study  # noqa: PLC0415

    print(f"{config.name}: {config.budget.trials} trials, {config.resources.trials_at_once} at once → {folder}")
    print(f"Ray is starting; what it says goes to {folder / 'ray.log'}", flush=True)
    try:
        complete = run_study(config, folder, address=arguments.address)
    except KeyboardInterrupt:  # before Tune listens for it, or a second time
        complete = False
    code = _finish(config, folder)
    if complete:
        return code
    print(f"\nInterrupted; nothing is lost. Go on with\n  {_resume_command(arguments)}")
    return 130


def _with_absolute_path(config: StudyConfig) -> StudyConfig:
    """The same, with a data path that another process finds too; one in CFAMC_DATA's folder stays as it is."""
    path = config.trial.data.path
    if path is None or not Path(path).exists():
        return config
    return config.model_copy(update={"trial": config.trial.with_values({"data.path": str(Path(path).resolve())})})


def _check_same_study(config: StudyConfig, folder: Path) -> None:
    known, asked = read_config(folder).identity(), config.identity()
    different = sorted(_differences(known, asked))
    if different:
        raise InputError(
            f"{folder}: belongs to a study of another space (different: {', '.join(different)}); "
            "name another folder with --out, or another study with --set name=NAME"
        )


def _differences(one: Any, other: Any, key: str = "") -> list[str]:
    if isinstance(one, dict) and isinstance(other, dict) and key != "space":
        names = dict.fromkeys([*one, *other])
        return [
            found
            for name in names
            for found in _differences(one.get(name), other.get(name), f"{key}.{name}" if key else name)
        ]
    return [] if one == other else [key]


def _finish(config: StudyConfig, folder: Path) -> int:
    """Write the derived files, keep the encoders that are asked for, print the front."""
    from cfamc_ray.figures.front import draw_front, save_figure  # noqa: PLC0415 (matplotlib is slow to import)

    records = read_trials(folder)
    front = find_front(config, records)
    for name, rows in (("trials.csv", records), ("front.csv", front.members)):
        write_text(folder / name, csv_text(trials_table(config, rows), columns=table_columns(config)))
    save_figure(draw_front(front, title=config.question or config.name), folder / "report" / "front.png")
    kept = {record.number for record in front.members}
    set_aside = [record for record in records if record.status == "finished" and record.number not in kept]
    if config.keep_encoders == "front":
        for record in set_aside:
            TrialFolder(folder, record.number).encoder.unlink(missing_ok=True)
    _print_front(config, front.members, records)
    print(f"\nFigure     {folder / 'report' / 'front.png'}")
    print(f"Tables     {folder / 'front.csv'}, {folder / 'trials.csv'}")
    print(f"Live view  {_program('tensorboard')} --logdir {shlex.quote(str(folder))}")
    return 0 if front.members else 1


def _print_front(config: StudyConfig, members: Sequence[TrialRecord], records: Sequence[TrialRecord]) -> None:
    from cfamc_ray.orchestration.view import show_seconds, show_value  # noqa: PLC0415

    finished = sum(record.status == "finished" for record in records)
    print(f"\n{len(members)} of {finished} finished trials are on the front of {config.name}")
    for record in records:
        if record.status not in ("finished", "running"):
            print(f"  {record.trial_id} {record.status}: {record.reason}")
    if not members:
        return
    table = Table(box=None, pad_edge=False)
    metrics = list(dict.fromkeys([*config.objectives, "crop_passes"]))
    leaves = [key.rpartition(".")[2] for key in config.space]
    keys = [
        leaf.replace("_", " ") if leaves.count(leaf) == 1 else key
        for key, leaf in zip(config.space, leaves, strict=True)
    ]
    for name in ("trial", *(metric.replace("_", " ") for metric in metrics), "time", *keys):
        table.add_column(name, justify="right", no_wrap=name == "time", overflow="fold")
    for record in members:
        values = [show_value(metric, record.value(metric)) for metric in metrics]
        seconds = show_seconds(record.value("train_seconds") + record.value("eval_seconds"))
        point = [_show_setting(key, record.point[key]) for key in config.space]
        table.add_row(str(record.number), *values, seconds, *point)
    Console().print(table)


def _show_setting(key: str, value: object) -> str:
    if key.endswith("epsilon") and isinstance(value, float) and "rate" not in key:
        return f"{value * 255:.2f}/255"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _print_plan(config: StudyConfig) -> None:
    from cfamc_ray.evaluation.cost import study_cost  # noqa: PLC0415

    print(dump_study(config))
    cost = study_cost(config)
    trials = config.budget.trials
    print(
        f"# {trials} trials of {cost.crop_passes_low:.3g} to {cost.crop_passes_high:.3g} crop passes; "
        f"about {cost.crop_passes_mean * trials:.3g} crop passes and {cost.flops_mean * trials:.3g} FLOPs in all "
        "(evaluation not counted)"
    )


def _resume_command(arguments: argparse.Namespace) -> str:
    words = [
        _program("python"),
        "-m",
        "cfamc_ray.tune",
        "--space",
        arguments.space,
        "--out",
        str(arguments.out),
        "--resume",
    ]
    words += ["--trials", str(arguments.trials)] if arguments.trials is not None else []
    words += ["--address", arguments.address] if arguments.address else []
    words += [word for override in arguments.overrides for word in ("--set", override)]
    return shlex.join(words)


def _program(name: str) -> str:
    """A program of this Python's environment as it can be typed here, whether the environment is active or not."""
    path = Path(sys.executable).with_name(name)
    if not path.exists():
        return name
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


if __name__ == "__main__":
    sys.exit(main())
