"""Plan an evaluation: encoder, images and protocol, checked before anything is computed."""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

from pydantic import ValidationError

from cfamc_ray.config.components import import_plugins
from cfamc_ray.config.data import DATA_SETS, DataConfig, parse_data
from cfamc_ray.config.errors import InputError
from cfamc_ray.config.protocol import ProtocolConfig
from cfamc_ray.config.reading import key_and_value, resolve_protocol
from cfamc_ray.config.recipes import read_recipe, recipe_names
from cfamc_ray.config.study import StudyConfig
from cfamc_ray.config.trial import TrialConfig
from cfamc_ray.store.images import at_place, check_same
from cfamc_ray.store.interpolations import read_interpolation
from cfamc_ray.store.layout import ENCODER, trial_name
from cfamc_ray.store.records import TrialFolder, read_config, read_trials

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

Device = Literal["auto", "cpu", "cuda"]
"""Device of a computation; auto is a GPU if there is one."""

PLACE = "data.path="
"""Prefix of the override that gives the current path of the run's own images."""


@dataclass(frozen=True)
class Run:
    """A trained encoder, or its initial weights, and its origin."""

    name: str
    folder: Path
    """Folder of the trial, in which the record is written."""
    trial: TrialConfig
    recipe: str | None
    """Recipe of the trial, whose published results are shown for comparison."""
    encoder: Path | None
    """File of the weights; None: the initial weights."""
    study: StudyConfig | None = None
    """Study that the run belongs to; None for a recipe's initial weights."""

    @property
    def l2(self) -> float | None:
        """L2 strength of the probe with which `train` evaluated the encoder, if it was only one.

        None for a trial of a search and for initial weights.
        """
        strengths = self.trial.evaluation.head.l2
        searched = self.study is None or bool(self.study.space)
        return None if searched or self.encoder is None or len(strengths) > 1 else strengths[0]


class Plan(NamedTuple):
    """A run, with the data, protocol and device of its evaluation."""

    run: Run
    data: DataConfig
    """Data set on which the head is fitted and tested."""
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
    plugins: Iterable[str] = (),
) -> list[Plan]:
    """Plan an evaluation of a run for each protocol, checked before anything is computed.

    Args:
        run: folder of a run or of a trial; with `untrained` also a recipe.
        protocols: names of `PROTOCOLS`.
        head: name in `HEADS` of another head than the protocol's.
        overrides: ``key=value`` of a protocol, or ``data.path=PATH``, the current path of the run's images. Without
            ``head.l2``, the head has the L2 strength with which the run was trained, if it was only one.
        transfer: another data set to probe and test on: cifar10, cifar100, digits, npz:PATH or imagefolder:PATH.
        untrained: evaluate the initial weights.
        device: device of the computation.
        plugins: modules that register attacks, besides those of the run's study.

    Raises:
        InputError: if any of the arguments is wrong.
    """
    from cfamc_ray.cost.work import image_side  # noqa: PLC0415 (torch is slow to import)

    import_plugins(plugins)
    places = [text for text in overrides if text.startswith(PLACE)]
    others = [text for text in overrides if text not in places]
    if transfer and places:
        raise InputError(f"--set {places[-1]}: --transfer names the images, and where they are; leave one of them out")
    planned = find_run(run, untrained=untrained)  # first, because it imports the plugins of the run's study
    resolved = [resolve_protocol(name, head=head, overrides=others, trial=planned.trial) for name in protocols]
    if not (transfer or any(text.split("=")[0].strip() in ("head", "head.l2") for text in others)):
        resolved = [_at_strength_of(planned, protocol) for protocol in resolved]
    data = transfer_data(transfer, image_side(planned.trial.data)) if transfer else own_data(planned, places)
    where = device_of(device)
    warn_of_scale(planned.trial, data, resolved)
    return [Plan(planned, data, protocol, where) for protocol in resolved]


def _at_strength_of(run: Run, protocol: ProtocolConfig) -> ProtocolConfig:
    """The protocol with the run's L2 strength, if it would otherwise choose one for a head on the same features."""
    head = protocol.head
    if run.l2 is None or not head.selects_l2 or head.features != run.trial.evaluation.head.features:
        return protocol
    return protocol.model_copy(update={"head": head.model_copy(update={"l2": (run.l2,)})})


def warn_of_scale(trial: TrialConfig, data: DataConfig, protocols: Sequence[ProtocolConfig]) -> None:
    """Warn if an encoder is evaluated on images at another scale than its training crops."""
    from cfamc_ray.cost.work import scale_remark  # noqa: PLC0415 (torch is slow to import)

    remark = scale_remark(trial.crops.size, data)
    if remark and not all(protocol.crops for protocol in protocols):
        logger.warning("warning: %s", remark)


def find_run(name: str, *, untrained: bool) -> Run:
    """Find the run of a folder or, with `untrained`, of a recipe's name.

    Raises:
        InputError: if there is none, or more than one.
    """
    path = Path(name)
    if untrained and not path.exists() and name in recipe_names():
        recipe = read_recipe(name)
        return Run(f"{name}, untrained", Path("runs") / f"{name}-untrained", recipe.trial(), name, None)
    if between := read_interpolation(path):
        path = path.resolve()
        # Of the second trial, whose config an interpolation has, no encoder is needed.
        second = find_run(str(path.parent / trial_name(between.second)), untrained=True)
        return second if untrained else replace(second, name=path.name, folder=path, encoder=path / ENCODER)
    trial_folder = _find_trial(path, with_encoder=not untrained)
    study = read_config(trial_folder.path.parent)
    records = read_trials(trial_folder.path.parent)
    record = next((record for record in records if record.number == trial_folder.number), None)
    if record is None:
        raise InputError(f"{trial_folder.trial_file}: damaged; cfamc tune --resume writes it again")
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
    """The data set of a run, at its current path.

    Raises:
        InputError: if the images are missing, or differ from those with which the run's study began.
    """
    from cfamc_ray.data.content import content_digest  # noqa: PLC0415 (torch is slow to import)

    data = run.trial.data
    if places:
        if data.location is None:
            raise InputError(f"--set {places[-1]}: {run.name} was trained on {data.name}, which has no path")
        _, place = key_and_value(places[-1])
        data = at_place(data, Path(str(place)))
    if run.study is not None and "data" not in {key.split(".")[0] for key in run.study.space}:
        given = run.study.model_copy(update={"trial": run.study.trial.model_copy(update={"data": data})})
        check_same(run.folder.parent, {"data": content_digest(data)}, config=given)
    return data


def _find_trial(path: Path, *, with_encoder: bool) -> TrialFolder:
    """The single trial, with an encoder if one is needed, in a trial's, a study's, or an enclosing folder."""
    if not path.is_dir():
        known = f"; for a recipe's initial weights add --untrained: {', '.join(recipe_names())}"
        raise InputError(f"{path}: no such folder{known if path.name in recipe_names() else ''}")
    trials = sorted(trial.parent for pattern in ("", "*/", "*/*/") for trial in path.glob(f"{pattern}trial.json"))
    encoders = [trial for trial in trials if (trial / ENCODER).is_file()]
    chosen = trials if len(trials) == 1 and not with_encoder else encoders
    if len(chosen) == 1:
        trial = chosen[0].resolve()
        number = trial.name.removeprefix("trial_")
        if not number.isdecimal() or trial.name != trial_name(int(number)):
            raise InputError(
                f"{trial}: not named as a trial is, such as {trial_name(0)}; copy the study's whole folder"
            )
        return TrialFolder(trial.parent, int(number))
    if chosen or (not with_encoder and trials):
        what = "encoders" if chosen else "trials"
        raise InputError(f"{path}: holds several {what}; name one of {', '.join(map(str, chosen or trials))}")
    if any(_is_finished(trial) for trial in trials):
        raise InputError(
            f"{path}: finished, but its {ENCODER} is not there; a study keeps those of its front unless it has "
            f"keep_encoders: all; cfamc train --trial {path} trains it again"
        )
    state = "an unfinished run: resume it with --resume" if trials else "no run"
    raise InputError(f"{path}: holds {state}; a finished one has an {ENCODER}")


def _is_finished(trial: Path) -> bool:
    number = trial.name.removeprefix("trial_")
    record = TrialFolder(trial.parent, int(number)).read() if number.isdecimal() else None
    return record is not None and record.status == "finished"


def transfer_data(spec: str, image_size: int) -> DataConfig:
    """All labelled images of another data set, as ``--transfer`` names it."""
    from cfamc_ray.data.sources import read_source  # noqa: PLC0415 (torch is slow to import)

    name, _, path = spec.partition(":")
    try:
        keys = DATA_SETS.find(name).own_keys()
        if bool(path) != ("path" in keys):
            raise ValueError(f"{name} needs a path: {name}:PATH" if "path" in keys else f"{name} has no path")
        tree = {"name": name, "validation_images": 0} | ({"path": path} if path else {})
        tree |= {"image_size": image_size} if "image_size" in keys else {}
        images = len(read_source(parse_data(**tree)).train.labelled_n)
        return parse_data(**tree, pretrain_images=images, probe_images=images)
    except ValidationError as error:
        raise InputError(f"--transfer {spec}: {error.errors()[0]['msg'].removeprefix('Value error, ')}") from None
    except ValueError as error:
        raise InputError(f"--transfer {spec}: {error}") from None


def device_of(asked: Device) -> "torch.device":
    """The requested device, if it exists on this machine."""
    import torch  # noqa: PLC0415

    if asked not in get_args(Device):
        raise InputError(f"device {asked!r}: must be one of {', '.join(get_args(Device))}")
    if asked == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: torch finds no GPU here; leave it out to use the CPU")
    return torch.device("cuda" if asked != "cpu" and torch.cuda.is_available() else "cpu")
