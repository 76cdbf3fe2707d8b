"""A run's encoder measured on the test split by a protocol, and the record of that."""

import hashlib
import html
import json
import logging
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from pydantic import ValidationError

from cfamc_ray.config.data import DATA_SETS, DataConfig, parse_data
from cfamc_ray.config.errors import InputError
from cfamc_ray.config.protocol import ProtocolConfig
from cfamc_ray.config.reading import resolve_protocol
from cfamc_ray.config.recipes import PublishedRow, read_recipe, recipe_names
from cfamc_ray.config.study import StudyConfig
from cfamc_ray.config.trial import TrialConfig, without_paths
from cfamc_ray.config.yaml12 import dump_yaml
from cfamc_ray.formatting import format_quantity, format_radius
from cfamc_ray.host.files import write_text
from cfamc_ray.store.environment import environment
from cfamc_ray.store.images import check_same
from cfamc_ray.store.layout import trial_name
from cfamc_ray.store.records import TrialFolder, read_config, read_trials
from cfamc_ray.terminal import Detail, ProgressView, say

if TYPE_CHECKING:
    import pandas as pd
    import torch

    from cfamc_ray.evaluation.protocols import Measurement

logger = logging.getLogger(__name__)

Device = Literal["auto", "cpu", "cuda"]
"""Where something is computed; auto is a GPU where there is one."""

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


@dataclass(frozen=True)
class Evaluation:
    """What a protocol has measured of a run."""

    run: Run
    data: DataConfig
    measured: Sequence["Measurement"]
    """First without an attack, then each radius, attack by attack."""
    problem: str
    """Why the result is not to be trusted; empty where it is."""
    record: Mapping[str, Any]
    """Every setting, the results and where they were computed, as the file at `path` has them."""
    path: Path
    seconds: float
    """That it took, not rounded."""

    @property
    def results(self) -> "pd.DataFrame":
        """A row per attack and radius: images, accuracy as a fraction, and the bounds of its interval of 95 %."""
        import pandas as pd  # noqa: PLC0415 (slow to import)

        columns = ["attack", "epsilon", "images", "accuracy", "low", "high"]
        rows = [(f.attack, f.epsilon, f.images, f.accuracy, *f.interval) for f in self.measured]
        return pd.DataFrame(rows, columns=columns)

    def _repr_html_(self) -> str:
        problem = f"<p>Not to be trusted: {html.escape(self.problem)}</p>" if self.problem else ""
        name = f"{self.run.name}: {self.record['protocol']['name']} on {self.data.location or self.data.name}"
        return f"<h3>{html.escape(name)}</h3>{problem}{self.results.to_html(index=False)}"

    def write(self) -> None:
        """Write the record.

        Raises:
            InputError: where it cannot be written.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_text(self.path, json.dumps(self.record, indent=1) + "\n")
        except OSError as error:
            raise InputError(
                f"{self.path}: cannot be written ({error.strerror}); name another file with --out"
            ) from None


def evaluate_run(
    run: Run, data: DataConfig, protocol: ProtocolConfig, device: "torch.device", *, out: Path | None, detail: Detail
) -> Evaluation:
    """Fit a head on the frozen encoder and attack both; nothing is written.

    Args:
        run: whose encoder it is.
        data: that it is probed and tested on.
        protocol: what is measured.
        device: where.
        out: path of the record; evaluations/… in the trial's folder unless given.
        detail: how much is said meanwhile.
    """
    from cfamc_ray.data.splits import describe_test  # noqa: PLC0415 (torch is slow to import)
    from cfamc_ray.evaluation.autoattack import AttackInvalid  # noqa: PLC0415
    from cfamc_ray.training.place import device_name  # noqa: PLC0415

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
    say(f"{run.name}: protocol {protocol.name} on the test split of {data.location or data.name}", detail)
    if detail == "verbose":
        print(dump_yaml(settings["protocol"]), flush=True)
    started = time.perf_counter()
    measured: list[Measurement] = []
    problem = ""
    try:
        with ProgressView("probe", 0, sys.stdout, detail=detail) as view:
            for measurement in measure(run, data, protocol, device, view):
                measured.append(measurement)
                accuracy = format_quantity("fraction", measurement.accuracy)
                view.say(f"  {attack_name(measurement.attack, measurement.epsilon)}: {accuracy}")
    except (AttackInvalid, FloatingPointError) as error:
        problem = str(error)
    seconds = time.perf_counter() - started
    record = {
        **settings,
        "device": device_name(device),
        "seconds": round(seconds, 1),
        "environment": environment(),
        "published": published(run, data),
        "test_sample": describe_test(data, images=protocol.images),
        "results": [{**asdict(found), "accuracy": found.accuracy, "interval_95": found.interval} for found in measured],
        "problem": problem,
    }
    return Evaluation(run, data, measured, problem, record, path, seconds)


class Plan(NamedTuple):
    """What `evaluate_run` is to measure."""

    run: Run
    data: DataConfig
    protocol: ProtocolConfig
    device: "torch.device"


def planned_evaluations(
    run: str,
    protocols: Iterable[str],
    *,
    head: str | None = None,
    overrides: Sequence[str] = (),
    transfer: str | None = None,
    untrained: bool = False,
    device: Device = "auto",
) -> list[Plan]:
    """What each protocol is to measure of a run, checked before anything is computed.

    Args:
        run: folder of a run or of a trial; with `untrained` also a recipe.
        protocols: names of `PROTOCOLS`.
        head: another one of `HEADS` than the protocol's.
        overrides: ``key=value`` of a protocol, or ``data.path=PATH`` where the run's images lie now.
        transfer: other images to probe and test on: cifar10, cifar100, digits, npz:PATH or imagefolder:PATH.
        untrained: evaluate the initial weights.
        device: where it is computed.

    Raises:
        InputError: for whatever is wrong with any of them.
    """
    places = [text for text in overrides if text.startswith(PLACE)]
    others = [text for text in overrides if text not in places]
    resolved = [resolve_protocol(name, head=head, overrides=others) for name in protocols]
    found = find_run(run, untrained=untrained)
    data = transfer_data(transfer, found.trial.data.side or 32) if transfer else own_data(found, places)
    where = device_of(device)
    warn_of_scale(found.trial, data, resolved)
    return [Plan(found, data, protocol, where) for protocol in resolved]


def warn_of_scale(trial: TrialConfig, data: DataConfig, protocols: Sequence[ProtocolConfig]) -> None:
    """Warn of encoders that are evaluated on images of another scale than their crops."""
    from cfamc_ray.cost.work import scale_remark  # noqa: PLC0415 (torch is slow to import)

    remark = scale_remark(trial.crops.size, data)
    if remark and not all(protocol.crops for protocol in protocols):
        logger.warning("warning: %s", remark)


def find_run(name: str, *, untrained: bool) -> Run:
    """The run that a folder, or with `untrained` a recipe's name, stands for.

    Raises:
        InputError: where there is none, or several.
    """
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


def own_data(run: Run, places: Sequence[str]) -> DataConfig:
    """The images that a run was trained for, where they lie now.

    Raises:
        InputError: where they are missing, or others than those that the run's study began with.
    """
    from cfamc_ray.data.content import content_digest  # noqa: PLC0415 (torch is slow to import)

    data = run.trial.data
    if places:
        if data.location is None:
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


def transfer_data(spec: str, image_size: int) -> DataConfig:
    """All labelled images of another data set, as ``--transfer`` names it."""
    from cfamc_ray.data.sources import read_source  # noqa: PLC0415 (torch is slow to import)

    name, _, path = spec.partition(":")
    try:
        known = DATA_SETS.find(name).model_fields
        tree = {"name": name, "validation_images": 0} | ({"path": path} if path else {})
        tree |= {"image_size": image_size} if "image_size" in known else {}
        images = len(read_source(parse_data(**tree)).train.labelled_n)
        return parse_data(**tree, pretrain_images=images, probe_images=images)
    except ValidationError as error:
        raise InputError(f"--transfer {spec}: {error.errors()[0]['msg'].removeprefix('Value error, ')}") from None


def device_of(asked: Device) -> "torch.device":
    """The device that was asked for, where it is here."""
    import torch  # noqa: PLC0415

    if asked == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: torch finds no GPU here; leave it out to compute on the CPU")
    return torch.device("cuda" if asked != "cpu" and torch.cuda.is_available() else "cpu")


def measure(
    run: Run, data: DataConfig, protocol: ProtocolConfig, device: "torch.device", view: ProgressView
) -> Iterator["Measurement"]:
    """Measure the encoder, showing how far it is."""
    from cfamc_ray.evaluation.protocols import measure_on  # noqa: PLC0415 (torch is slow to import)
    from cfamc_ray.method.encoder import load_encoder  # noqa: PLC0415
    from cfamc_ray.training.allocator import keep_freed_memory  # noqa: PLC0415 (torch is slow to import)
    from cfamc_ray.training.trainer import initial_encoder  # noqa: PLC0415

    keep_freed_memory()
    encoder = initial_encoder(run.trial) if run.encoder is None else load_encoder(run.encoder)
    return measure_on(
        data,
        encoder,
        protocol=protocol,
        crops=run.trial.crops,
        device=device,
        on_progress=lambda name, epsilon, done, total: view.move_to(done, what=attack_name(name, epsilon), total=total),
    )


def published(run: Run, data: DataConfig) -> dict[str, Any] | None:
    """The published row of the run's recipe on the same data set, in percent."""
    row = published_row(run, data)
    return None if row is None else {"recipe": run.recipe, **dict(zip(("clean", "4/255", "8/255"), row, strict=True))}


def published_row(run: Run, data: DataConfig) -> PublishedRow | None:
    """Accuracies in percent as published; None where there are none for this data set."""
    if run.recipe is None or run.encoder is None or data.name != run.trial.data.name:
        return None
    published = read_recipe(run.recipe).published
    rows = {"cifar10": published.cifar10, "cifar100": published.cifar100} if published else {}
    return rows.get(data.name)


def attack_name(name: str, epsilon: float) -> str:
    """An attack and its radius in words."""
    return f"{name} at {format_radius(epsilon)}" if epsilon else name
