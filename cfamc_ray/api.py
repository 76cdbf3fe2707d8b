"""The public API: what the commands do, called from Python.

Bad input raises `InputError`. Ctrl-C raises KeyboardInterrupt and leaves a folder that can be resumed. Nothing is
printed unless `verbose` asks for it; warnings go to the logger ``cfamc_ray``.
"""

import json
import logging
from collections.abc import Sequence
from pathlib import Path

from cfamc_ray.config.errors import InputError
from cfamc_ray.config.heads import HEADS
from cfamc_ray.config.protocol import PROTOCOLS
from cfamc_ray.config.recipes import VARIANTS, Variant
from cfamc_ray.lifecycle.checks import warn_of_damage
from cfamc_ray.lifecycle.costs import cost_model
from cfamc_ray.lifecycle.evaluation import evaluate_run
from cfamc_ray.lifecycle.evaluation_plan import Device, planned_evaluations
from cfamc_ray.lifecycle.evaluation_record import Evaluation
from cfamc_ray.lifecycle.plans import plan_run, plan_scaling, plan_study
from cfamc_ray.lifecycle.reporting import Reporter
from cfamc_ray.lifecycle.scaling import Part, ScalingResult, parts_of, run_parts, write_fits
from cfamc_ray.lifecycle.search import run_search
from cfamc_ray.lifecycle.sources import Space, as_list, run_source
from cfamc_ray.lifecycle.study import Study
from cfamc_ray.lifecycle.training import train_run
from cfamc_ray.store.layout import LEARNING
from cfamc_ray.store.mirror import mirrored
from cfamc_ray.store.records import read_config

__all__ = ["Evaluation", "ScalingResult", "Study", "evaluate", "open_study", "run_scaling", "run_study", "train"]

logger = logging.getLogger(__name__)


def run_study(
    space: Space,
    *,
    out: Path | str = "runs",
    overrides: Sequence[str] = (),
    resume: bool = False,
    plugins: Sequence[str] = (),
    warm_start: Sequence[Path | str] = (),
    costs: Path | str | None = None,
    mirror: str | None = None,
    address: str | None = None,
    verbose: bool = False,
) -> Study:
    """Search a space for its front, and confirm the front if the space says so; ``cfamc tune``.

    Args:
        space: path of a YAML file, bare name of a given space, or a mapping with the same keys.
        out: folder that studies lie in; this one's is named after it.
        overrides: ``key=value`` as after ``--set``, such as ``budget.trials=20``.
        resume: whether an unfinished study is resumed.
        plugins: modules that register components, added to the key ``plugins`` of the space; every process that
            handles the study imports them.
        warm_start: folders of earlier studies on the same space whose trials count as tried.
        costs: folder of a scaling study, whose models of time and memory are used.
        mirror: URI of an object store that keeps a copy of the folder.
        address: of a running Ray cluster, ``auto`` or ``HOST:PORT``. None for the one that this process is connected
            to, or else for one that is started here and stopped at the end.
        verbose: whether progress is printed.

    Returns:
        the study, finished; its front may be empty.

    Raises:
        InputError: for whatever is wrong with the space, a plugin, the folder, the images or the cluster.
        KeyboardInterrupt: after an interruption; `Study.resume`, or ``resume=True``, resumes.
    """
    plan = plan_study(space, out=out, overrides=overrides, plugins=plugins)
    models, reporter = cost_model(costs, plan.config), Reporter.for_verbose(verbose)
    with mirrored(plan.folder, mirror):
        run_search(plan, resume=resume, warm_start=warm_start, costs=models, address=address, reporter=reporter)
    return Study(plan.folder, plan.config)


def open_study(folder: Path | str) -> Study:
    """Open a study that has been run, or still runs, to look at it or to resume it.

    Args:
        folder: of the study, or of a training run.

    Raises:
        InputError: where it holds none, or a plugin of the study cannot be imported.
    """
    study = Study(Path(folder).resolve(), read_config(Path(folder)))
    warn_of_damage(study.folder)
    return study


def train(
    recipe_or_space: Space,
    *,
    name: str | None = None,
    variant: Variant = VARIANTS[0],
    out: Path | str = "runs",
    overrides: Sequence[str] = (),
    plugins: Sequence[str] = (),
    workers: int = 1,
    device: Device = "auto",
    resume: bool = False,
    mirror: str | None = None,
    address: str | None = None,
    verbose: bool = False,
) -> Study:
    """Train one configuration and keep it as a study of one trial; ``cfamc train``.

    Args:
        recipe_or_space: name of a published recipe, folder of a trial that a study has tried, or a space whose searched
            keys, if it has any, are all fixed by the overrides.
        name: of the run and its folder; the recipe's, the trial's or the space's unless given.
        variant: of a recipe, ``corrected`` or ``published``.
        out: folder that runs lie in.
        overrides: ``key=value`` as after ``--set``, such as ``pretraining.epochs=2``.
        plugins: as for `run_study`.
        workers: data-parallel workers; one trains in this process, more need Ray.
        device: ``auto``, ``cpu`` or ``cuda``.
        resume: whether an unfinished run is resumed.
        mirror: as for `run_study`.
        address: likewise, for several workers.
        verbose: whether progress is printed.

    Returns:
        the study, whose only trial has finished, or has failed for the reason that its row names.

    Raises:
        InputError: for whatever is wrong with an argument, the folder or the images.
        KeyboardInterrupt: after an interruption; every finished epoch is kept, and ``resume=True`` resumes.
    """
    source = run_source(recipe_or_space, variant)
    plan = plan_run(
        source,
        name=name,
        out=out,
        overrides=overrides,
        plugins=plugins,
        workers=workers,
        device=device,
        address=address,
    )
    with mirrored(plan.folder, mirror):
        same_images = source.studies_with_the_same_images(overrides)
        detail = Reporter.for_verbose(verbose).detail
        train_run(plan, resume=resume, same_images=same_images, address=address, detail=detail)
    return Study(plan.folder, plan.config)


def evaluate(
    run: Path | str | Study,
    *,
    protocol: str = "standard",
    head: str | None = None,
    overrides: Sequence[str] = (),
    transfer: str | None = None,
    untrained: bool = False,
    device: Device = "auto",
    out: Path | str | None = None,
    plugins: Sequence[str] = (),
    verbose: bool = False,
) -> Evaluation:
    """Fit a head on a frozen encoder, or fine-tune both, and attack them on the test split; ``cfamc evaluate``.

    Args:
        run: folder of a run or of a trial, or what `train` returned; with `untrained` also a recipe.
        protocol: ``standard``, ``published-emp``, ``published-simclr``, ``few-labels`` or ``corruptions``.
        head: another head than the protocol's, such as ``adversarial``.
        overrides: ``key=value`` of the protocol, such as ``images=500``, ``labels_per_class=20`` or
            ``finetune.layers=all``; or ``data.path=PATH``, where the images are.
        transfer: other images to probe and test on: cifar10, cifar100, digits, npz:PATH or imagefolder:PATH.
        untrained: evaluate the initial weights, the floor of a table.
        device: ``auto``, ``cpu`` or ``cuda``.
        out: file of the record; evaluations/… in the trial's folder unless given.
        plugins: modules that register attacks, for ``attack.name=NAME`` among the overrides.
        verbose: whether progress is printed.

    Returns:
        the measurements; their record is written. Where `problem` is not empty, they are not to be trusted.

    Raises:
        InputError: for whatever is wrong with an argument, or where the record cannot be written.
    """
    for kind, name, choices in (("protocol", protocol, PROTOCOLS), ("head", head, HEADS)):
        if name is not None and name not in choices:
            raise InputError(f"{kind}: there is no {name!r}; there are {', '.join(choices)}")
    (plan,) = planned_evaluations(
        str(run.folder if isinstance(run, Study) else run),
        [protocol],
        head=head,
        overrides=as_list(overrides, "overrides"),
        transfer=transfer,
        untrained=untrained,
        device=device,
        plugins=as_list(plugins, "plugins"),
    )
    path = None if out is None else Path(out)
    evaluation = evaluate_run(*plan, out=path, detail=Reporter.for_verbose(verbose).detail)
    try:
        evaluation.write()
    except InputError as error:
        error.add_note(json.dumps(evaluation.record))  # what was computed is not lost
        raise
    if evaluation.problem:
        logger.warning("%s: the result is not to be trusted. %s", evaluation.run.name, evaluation.problem)
    return evaluation


def run_scaling(
    space: Space,
    *,
    part: Part = "all",
    out: Path | str = "runs",
    overrides: Sequence[str] = (),
    plugins: Sequence[str] = (),
    costs: Path | str | None = None,
    mirror: str | None = None,
    address: str | None = None,
    verbose: bool = False,
) -> ScalingResult:
    """Measure and fit how time, memory and error grow; ``cfamc scale``. Calling it again resumes.

    Args:
        space: of a scaling study: path of a YAML file, bare name of a given space, or a mapping with the same keys.
        part: ``system``, ``learning`` or ``all``.
        out: as for `run_study`, and so are the other arguments.
        overrides: likewise.
        plugins: likewise.
        costs: likewise.
        mirror: likewise.
        address: likewise.
        verbose: likewise.

    Returns:
        the fits, the files that hold them, and conclusions in sentences.

    Raises:
        InputError: for whatever is wrong with the space, a plugin, the folder, the images or the cluster.
        KeyboardInterrupt: after an interruption; what there is so far is fitted and written.
    """
    plan = plan_scaling(space, out=out, overrides=overrides, plugins=plugins)
    parts = parts_of(plan.config, part)
    models = cost_model(costs, plan.config.learning_study) if LEARNING in parts else None
    with mirrored(plan.folder, mirror):
        detail = Reporter.for_verbose(verbose).detail
        complete = run_parts(plan, parts, costs=models, address=address, detail=detail)
        result = write_fits(plan)
    if not complete:
        raise KeyboardInterrupt
    return result
