"""Plans of studies and runs: resolved and checked, with nothing written."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cfamc_ray.config.errors import InputError
from cfamc_ray.config.recipes import VARIANTS
from cfamc_ray.config.scaling import ScalingConfig
from cfamc_ray.config.study import StudyConfig
from cfamc_ray.host.files import is_text
from cfamc_ray.host.machine import cores
from cfamc_ray.lifecycle.evaluation_plan import Device, device_of
from cfamc_ray.lifecycle.sources import Source, Space, as_list, space_source
from cfamc_ray.space.reading import resolve_scaling, resolve_study
from cfamc_ray.store.images import found_from


@dataclass(frozen=True)
class PlannedStudy:
    """A resolved study or run, and its folder."""

    folder: Path
    """The folder that holds everything, such as runs/quickstart."""
    config: StudyConfig = field(repr=False)
    """The space with every default written out, as in study.yaml."""


@dataclass(frozen=True)
class PlannedScaling:
    """A resolved scaling study, and its folder."""

    folder: Path
    config: ScalingConfig = field(repr=False)


def runs_folder(name: Path | str) -> Path:
    """The folder of studies, from its name.

    Raises:
        InputError: if the name cannot be that of a folder.
    """
    if "://" in str(name):
        raise InputError(
            f"{name}: a study needs a folder that all its machines mount; --mirror keeps a copy in a bucket"
        )
    if not is_text(str(name)):
        raise InputError(f"{str(name)!r}: its name is not valid UTF-8; name another folder")
    return Path(name)


def plan_study(
    space: Space, *, out: Path | str = "runs", overrides: Sequence[str] = (), plugins: Sequence[str] = ()
) -> PlannedStudy:
    """Resolve a study; arguments and errors as in `cfamc_ray.run_study`."""
    source = space_source(space)
    config = resolve_study(source.tree(plugins), as_list(overrides, "overrides"), source=source.label)
    config = found_from(config, source.base_folder)
    return PlannedStudy((runs_folder(out) / config.name).resolve(), config)


def plan_scaling(
    space: Space, *, out: Path | str = "runs", overrides: Sequence[str] = (), plugins: Sequence[str] = ()
) -> PlannedScaling:
    """Resolve a scaling study; arguments and errors as in `cfamc_ray.run_scaling`."""
    source = space_source(space)
    config = resolve_scaling(source.tree(plugins), as_list(overrides, "overrides"), source=source.label)
    config = found_from(config, source.base_folder)
    return PlannedScaling((runs_folder(out) / config.name).resolve(), config)


def plan_run(
    source: Source,
    *,
    name: str | None = None,
    out: Path | str = "runs",
    overrides: Sequence[str] = (),
    plugins: Sequence[str] = (),
    workers: int = 1,
    device: Device = "auto",
    address: str | None = None,
) -> PlannedStudy:
    """Resolve a run, which is a study of one trial; arguments and errors as in `cfamc_ray.train`."""
    if workers < 1:
        raise InputError(f"--workers {workers}: must be at least 1")
    resources = {
        "workers_per_trial": workers,
        "cpus_per_worker": max(1, cores() // workers),
        "gpus_per_worker": 1.0 if device_of(device).type == "cuda" else 0.0,
    }
    tree = source.tree(plugins) | ({"name": name} if name else {}) | {"budget": {"trials": 1}, "resources": resources}
    config = resolve_study(tree, as_list(overrides, "overrides"), source=source.label)
    _check_run(config, source, address)
    config = found_from(config, source.base_folder)
    return PlannedStudy((runs_folder(out) / config.name).resolve(), config)


def _check_run(config: StudyConfig, source: Source, address: str | None) -> None:
    """Refuse overrides that a run does not allow."""
    import torch  # noqa: PLC0415 (slow to import)

    if (config.base, config.variant) != (source.keys.get("base"), source.keys.get("variant", VARIANTS[0])):
        raise InputError("--set base, --set variant: name them with --recipe and --variant")
    if config.space:
        raise InputError("--set space: a run has no space to search; cfamc tune has")
    if config.budget.trials != 1:
        raise InputError("--set budget.trials: a run is one trial; cfamc tune trains several")
    if config.loggers:
        raise InputError("--set loggers: a run has none beside TensorBoard; cfamc tune has")
    if config.resources.workers_per_trial == 1:
        if address:
            raise InputError("--address: one worker needs no cluster; add --workers N")
        if config.resources.gpus_per_worker and not torch.cuda.is_available():
            raise InputError("--set resources.gpus_per_worker: torch finds no GPU here; leave it out")
