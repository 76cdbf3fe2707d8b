"""Evaluate a trained encoder by a protocol: python -m cfamc_ray.evaluate runs/cf-amc-ssl --protocol standard."""

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError
from rich.table import Table

from cfamc_ray.allocator import keep_freed_memory
from cfamc_ray.command import exit_code, whole_table
from cfamc_ray.config.errors import InputError
from cfamc_ray.config.protocol import HEADS, PROTOCOLS, ProtocolConfig
from cfamc_ray.config.reading import resolve_protocol
from cfamc_ray.config.recipes import PublishedRow, read_recipe, recipe_names
from cfamc_ray.config.study import StudyConfig
from cfamc_ray.config.trial import DataConfig, TrialConfig, without_paths
from cfamc_ray.config.yaml12 import dump_yaml
from cfamc_ray.files import write_text
from cfamc_ray.study.environment import environment
from cfamc_ray.study.images import check_same
from cfamc_ray.study.records import TrialFolder, read_config, read_trials, trial_name
from cfamc_ray.study.wording import show_radius, show_seconds, show_value
from cfamc_ray.terminal import Detail, ProgressView, add_detail_options, say

if TYPE_CHECKING:
    import torch

    from cfamc_ray.evaluation.protocols import Measurement


PLACE = "data.path="
"""Of ``--set``: where the run's own images lie now."""


@dataclass(frozen=True)
class Run:
    """What is evaluated."""

    name: str
    folder: Path
    """Where the record goes."""
    trial: TrialConfig
    recipe: str | None
    """Whose published row stands beside."""
    encoder: Path | None
    """None: its initial weights."""
    study: StudyConfig | None = None
    """It belongs to; None of a recipe's initial weights."""


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, check, measure, print; 0 with a record, 1 where the result is not to be trusted, 2 for bad input."""
    arguments = _parser().parse_args(argv)
    return exit_code(lambda: _evaluate(arguments))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m cfamc_ray.evaluate",
        description="Fit a head on a frozen encoder and attack both, on the test split, by a protocol.",
    )
    parser.add_argument("run", metavar="RUN", help="folder of a run or of a trial; with --untrained also a recipe")
    parser.add_argument("--protocol", choices=[*PROTOCOLS, "all"], default="standard", help="what is measured")
    parser.add_argument("--head", choices=HEADS, help="another head than the protocol's")
    parser.add_argument("--untrained", action="store_true", help="evaluate the initial weights: the floor of a table")
    parser.add_argument(
        "--transfer", metavar="DATA", help="probe and test on cifar10, cifar100, digits, npz:PATH or imagefolder:PATH"
    )
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="where it is computed")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="overrides",
        help="override a protocol's key, or data.path, where the images lie now",
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="the record (evaluations/… in the trial's folder)")
    add_detail_options(parser, verbose="every setting of the protocol")
    return parser


def _evaluate(arguments: argparse.Namespace) -> int:
    names = PROTOCOLS if arguments.protocol == "all" else (arguments.protocol,)
    if arguments.out and len(names) > 1:
        raise InputError("--out: names one file, but --protocol all writes several records; leave one of them out")
    places = [text for text in arguments.overrides if text.startswith(PLACE)]
    overrides = [text for text in arguments.overrides if text not in places]
    protocols = [resolve_protocol(name, head=arguments.head, overrides=overrides) for name in names]
    run = _find_run(arguments.run, untrained=arguments.untrained)
    data = _transfer(arguments.transfer, run.trial.data.image_size) if arguments.transfer else _own_data(run, places)
    device = _device(arguments.device)
    _warn_of_scale(run.trial, data, protocols)
    return max(_run_protocol(run, data, protocol, device, arguments.out, arguments.detail) for protocol in protocols)


def _run_protocol(
    run: Run, data: DataConfig, protocol: ProtocolConfig, device: "torch.device", out: Path | None, detail: Detail
) -> int:
    from cfamc_ray.data.splits import describe_test  # noqa: PLC0415 (torch is slow to import)
    from cfamc_ray.evaluation.autoattack import AttackInvalid  # noqa: PLC0415
    from cfamc_ray.trial import device_name  # noqa: PLC0415

    settings = {
        "run": run.name,
        "encoder": "untrained" if run.encoder is None else str(run.encoder),
        "trial": run.trial.model_dump(mode="json"),
        "data": data.model_dump(mode="json"),
        "protocol": protocol.model_dump(mode="json"),
    }
    unplaced = {"encoder": run.encoder is not None, "trial": without_paths(run.trial.model_dump(mode="json"))}
    identity = settings | unplaced | without_paths({"data": settings["data"]})
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:8]
    path = out or run.folder / "evaluations" / f"{protocol.name}-{digest}.json"
    say(f"{run.name}: protocol {protocol.name} on the test split of {data.path or data.name}", detail)
    if detail == "verbose":
        print(dump_yaml(settings["protocol"]), flush=True)
    started = time.perf_counter()
    measured: list[Measurement] = []
    problem = ""
    try:
        with ProgressView("probe", 0, sys.stdout, detail=detail) as view:
            for measurement in _measure(run, data, protocol, device, view):
                measured.append(measurement)
                accuracy = show_value("accuracy", measurement.accuracy)
                view.say(f"  {_attack(measurement.attack, measurement.epsilon)}: {accuracy}")
    except (AttackInvalid, FloatingPointError) as error:
        problem = str(error)
    seconds = time.perf_counter() - started
    record = {
        **settings,
        "device": device_name(device),
        "seconds": round(seconds, 1),
        "environment": environment(),
        "published": _published(run, data),
        "test_sample": describe_test(data, images=protocol.images),
        "results": [{**asdict(found), "accuracy": found.accuracy, "interval_95": found.interval} for found in measured],
        "problem": problem,
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(record, indent=1) + "\n")
    except OSError as error:
        print(json.dumps(record))  # what was computed is not lost
        raise InputError(f"{path}: cannot be written ({error.strerror}); name another file with --out") from None
    _print_table(run, data, measured)
    print(f"\n{show_seconds(seconds)} on {record['device']}; record {path}")
    if problem:
        print(f"{run.name}: the result is not to be trusted. {problem}", file=sys.stderr)
    return 1 if problem else 0


def _warn_of_scale(trial: TrialConfig, data: DataConfig, protocols: Sequence[ProtocolConfig]) -> None:
    from cfamc_ray.evaluation.cost import scale_remark  # noqa: PLC0415 (torch is slow to import)

    remark = scale_remark(trial.crops.size, data)
    if remark and not all(protocol.crops for protocol in protocols):
        print(f"warning: {remark}", file=sys.stderr)


def _find_run(name: str, *, untrained: bool) -> Run:
    path = Path(name)
    if untrained and not path.exists() and name in recipe_names():
        recipe = read_recipe(name)
        return Run(f"{name}, untrained", Path("runs") / f"{name}-untrained", recipe.trial(), name, None)
    trial_folder = _find_trial(path)
    study = read_config(trial_folder.path.parent)
    records = read_trials(trial_folder.path.parent)
    record = next((record for record in records if record.number == trial_folder.number), None)
    if record is None:
        raise InputError(f"{trial_folder.trial_file}: damaged; python -m cfamc_ray.tune --resume writes it again")
    base = record.point.get("base", study.base)
    label = study.name if len(records) == 1 else f"{study.name}/{record.trial_id}"
    return Run(
        f"{label}, untrained" if untrained else label,
        trial_folder.path,
        study.trial_at(record.point),
        None if base is None else str(base),
        None if untrained else trial_folder.encoder,
        study,
    )


def _own_data(run: Run, places: Sequence[str]) -> DataConfig:
    """The images that a run was trained for, where they lie now.

    Raises:
        InputError: where they are missing, or others than those that the run's study began with.
    """
    from cfamc_ray.data.content import content_digest  # noqa: PLC0415 (torch is slow to import)

    data = run.trial.data
    if places:
        if data.path is None:
            raise InputError(f"--set {places[-1]}: {run.name} was trained on {data.name}, which has no path")
        data = data.model_copy(update={"path": str(Path(places[-1].removeprefix(PLACE)).resolve())})
    if run.study is not None and "data" not in {key.split(".")[0] for key in run.study.space}:
        given = run.study.model_copy(update={"trial": run.study.trial.model_copy(update={"data": data})})
        check_same(run.folder.parent, {"data": content_digest(data)}, config=given)
    return data


def _find_trial(path: Path) -> TrialFolder:
    """The one trial with an encoder in a trial's, a study's, or an enclosing folder."""
    if not path.is_dir():
        known = f"; for a recipe's initial weights add --untrained: {', '.join(recipe_names())}"
        raise InputError(f"{path}: no such folder{known if path.name in recipe_names() else ''}")
    trials = sorted(trial.parent for pattern in ("", "*/", "*/*/") for trial in path.glob(f"{pattern}trial.json"))
    finished = [trial for trial in trials if (trial / "encoder.safetensors").is_file()]
    if len(finished) == 1:
        trial = finished[0].resolve()
        number = trial.name.removeprefix("trial_")
        if not number.isdecimal() or trial.name != trial_name(int(number)):
            raise InputError(
                f"{trial}: not named as a trial is, such as {trial_name(0)}; copy the study's whole folder"
            )
        return TrialFolder(trial.parent, int(number))
    if not finished:
        state = "an unfinished run: go on with --resume" if trials else "no run"
        raise InputError(f"{path}: holds {state}; a finished one has an encoder.safetensors")
    raise InputError(f"{path}: holds several encoders; name one of {', '.join(map(str, finished))}")


def _transfer(spec: str, image_size: int) -> DataConfig:
    """All labelled images of another data set."""
    from cfamc_ray.data.sources import read_source  # noqa: PLC0415 (torch is slow to import)

    name, _, path = spec.partition(":")
    tree = {"name": name, "path": path or None, "validation_images": 0, "image_size": image_size}
    try:
        images = len(read_source(DataConfig.model_validate(tree)).train.labelled_n)
        return DataConfig.model_validate(tree | {"pretrain_images": images, "probe_images": images})
    except ValidationError as error:
        raise InputError(f"--transfer {spec}: {error.errors()[0]['msg'].removeprefix('Value error, ')}") from None


def _device(asked: str) -> "torch.device":
    import torch  # noqa: PLC0415

    if asked == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: torch finds no GPU here; leave it out to compute on the CPU")
    return torch.device("cuda" if asked != "cpu" and torch.cuda.is_available() else "cpu")


def _measure(
    run: Run, data: DataConfig, protocol: ProtocolConfig, device: "torch.device", view: ProgressView
) -> Iterator["Measurement"]:
    from cfamc_ray.evaluation.protocols import measure_on  # noqa: PLC0415 (torch is slow to import)
    from cfamc_ray.method.encoder import load_encoder  # noqa: PLC0415
    from cfamc_ray.trial import initial_encoder  # noqa: PLC0415

    keep_freed_memory()
    encoder = initial_encoder(run.trial) if run.encoder is None else load_encoder(run.encoder)
    return measure_on(
        data,
        encoder,
        protocol=protocol,
        crops=run.trial.crops,
        device=device,
        on_progress=lambda name, epsilon, done, total: view.move_to(done, what=_attack(name, epsilon), total=total),
    )


def _published(run: Run, data: DataConfig) -> dict[str, Any] | None:
    """The published row of the run's recipe on the same data set, in percent."""
    row = _published_row(run, data)
    return None if row is None else {"recipe": run.recipe, **dict(zip(("clean", "4/255", "8/255"), row, strict=True))}


def _published_row(run: Run, data: DataConfig) -> PublishedRow | None:
    if run.recipe is None or run.encoder is None or data.name != run.trial.data.name:
        return None
    published = read_recipe(run.recipe).published
    rows = {"cifar10": published.cifar10, "cifar100": published.cifar100} if published else {}
    return rows.get(data.name)


def _attack(name: str, epsilon: float) -> str:
    return f"{name} at {show_radius(epsilon)}" if epsilon else name


def _print_table(run: Run, data: DataConfig, measured: Sequence["Measurement"]) -> None:
    row = _published_row(run, data)
    published = {} if row is None else {0.0: row.clean, 4 / 255: row.robust_4, 8 / 255: row.robust_8}
    table = Table(box=None, pad_edge=False)
    table.add_column("attack", no_wrap=True)
    for name in ("ε", "accuracy", "95 % interval", "images", *(["published"] if published else [])):
        table.add_column(name, justify="right", no_wrap=True)
    for found in measured:
        low, high = (show_value("accuracy", bound) for bound in found.interval)
        value = None if found.attack.startswith("+") else published.get(found.epsilon)
        cells = [show_value("accuracy", found.accuracy), f"{low} – {high}", str(found.images)]
        beside = ["–" if value is None else f"{value:g} %"] if published else []
        table.add_row(found.attack, show_radius(found.epsilon) if found.epsilon else "–", *cells, *beside)
    print("\n" + whole_table(table))


if __name__ == "__main__":
    sys.exit(main())
