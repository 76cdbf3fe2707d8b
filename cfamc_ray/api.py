"""The life of a study from Python, as the commands lead it, but without their output, signals and exit codes.

Bad input raises `InputError`. Ctrl-C raises KeyboardInterrupt and leaves a folder that can be resumed. Nothing is
printed unless `verbose` asks for it; warnings go to the logger ``cfamc_ray``.
"""

import base64
import copy
import html
import io
import json
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cfamc_ray.config.errors import InputError
from cfamc_ray.config.heads import HEADS
from cfamc_ray.config.protocol import PROTOCOLS
from cfamc_ray.config.reading import find_space, read_tree
from cfamc_ray.config.recipes import VARIANTS, Variant, read_recipe, recipe_names
from cfamc_ray.config.study import StudyConfig
from cfamc_ray.cost.model import CostModel
from cfamc_ray.front.confirmation import Confirmation, confirmation_table
from cfamc_ray.front.finalists import confirmed_front, write_confirmation
from cfamc_ray.front.front import Front, find_front
from cfamc_ray.host.files import write_text
from cfamc_ray.host.machine import cores
from cfamc_ray.host.process import before_end
from cfamc_ray.lifecycle.checks import check_data, check_folder, driving, runs_folder, training_work, warn_of_damage
from cfamc_ray.lifecycle.evaluation import evaluate_run
from cfamc_ray.lifecycle.evaluation_plan import Device, planned_evaluations
from cfamc_ray.lifecycle.evaluation_record import Evaluation
from cfamc_ray.scaling.system import read_costs
from cfamc_ray.search.budget import Budget
from cfamc_ray.space.reading import resolve_study
from cfamc_ray.space.search_space import SearchSpace
from cfamc_ray.store.environment import environment
from cfamc_ray.store.images import found_from, note
from cfamc_ray.store.layout import CONFIRM, ENVIRONMENT, FRONT, RAY_LOG, TRIALS, trial_name
from cfamc_ray.store.mirror import mirrored
from cfamc_ray.store.records import TrialFolder, TrialRecord, damaged_records, read_config, read_trials, write_config
from cfamc_ray.store.repair import repair
from cfamc_ray.store.stop_reason import StopReason
from cfamc_ray.store.trial_tables import trials_table
from cfamc_ray.store.warm_start import warm_start_from
from cfamc_ray.terminal import Detail, TrainingView, say

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)

Space = str | os.PathLike[str] | Mapping[str, Any]
"""A path, the bare name of a given space, or its keys."""
FIGURE_PIXELS = 640
"""Width of the front's figure in a notebook."""


@dataclass(frozen=True)
class Study:
    """A study and its folder, which holds all that is known of it; what is read from it is up to date."""

    folder: Path
    config: StudyConfig = field(repr=False)

    @property
    def trials(self) -> "pd.DataFrame":
        """What trials.csv has: a row per trial with its status, objectives, cost and searched keys.

        What is missing is NaN.
        """
        return _frame(_trials_csv(self.config, read_trials(self.folder)))

    @property
    def front(self) -> "pd.DataFrame":
        """What front.csv has: the finished trials that no other one dominates, best first in the first objective."""
        return _frame(_trials_csv(self.config, self._front.members))

    @property
    def _front(self) -> Front:
        return find_front(self.config, read_trials(self.folder))

    def report(self, *, budget: float | None = None) -> Path:
        """Write report/report.html, with every figure and table beside it; also of a study that still runs.

        Args:
            budget: crop passes that a recommended trial may take.

        Returns:
            path of the page.
        """
        from cfamc_ray.report.page import write_report  # noqa: PLC0415 (matplotlib and Plotly are slow to import)

        return write_report(self.folder, budget=budget)

    def resume(
        self,
        *,
        overrides: Sequence[str] = (),
        costs: Path | str | None = None,
        mirror: str | None = None,
        address: str | None = None,
        verbose: bool = False,
    ) -> "Study":
        """Go on with an unfinished study; with a larger ``budget.trials`` among the overrides, extend a finished one.

        Args:
            overrides: as for `run_study`, and so are the other arguments.
            costs: likewise.
            mirror: likewise.
            address: likewise.
            verbose: likewise.

        Returns:
            the study as it is then.

        Raises:
            InputError: where there is nothing to resume, or an override makes it another study.
            KeyboardInterrupt: as for `run_study`.
        """
        study = self._with(overrides)
        narrator = _narrator(verbose)
        with mirrored(study.folder, mirror):
            if not study.config.space and study.config.budget.trials == 1:
                train_planned(study, resume=True, address=address, detail=narrator.detail)
            else:
                models = None if costs is None else read_costs(Path(costs), study.config, training_work)
                search(study, resume=True, costs=models, address=address, narrator=narrator)
        return study

    def confirm(
        self, *, overrides: Sequence[str] = (), address: str | None = None, verbose: bool = False
    ) -> "pd.DataFrame":
        """Train the front anew with fresh seeds and test it in earnest, as the key ``confirm`` says.

        Args:
            overrides: such as ``confirm={seeds: 5}``, where the study itself does not say how.
            address: as for `run_study`.
            verbose: likewise.

        Returns:
            what confirm.csv has: a row per candidate, with no rows where nothing has finished.

        Raises:
            InputError: where nothing says how to confirm, or the folder holds another study.
            KeyboardInterrupt: after which it can be called again.
        """
        study = self._with(overrides)
        if study.config.confirm is None:
            raise InputError(f"{self.folder}: nothing says how to confirm; give overrides=['confirm={{seeds: 5}}']")
        check_folder(study.config, self.folder, resume=True)
        confirmed = confirm(study, address=address, narrator=_narrator(verbose))
        return _frame(confirmation_table(confirmed, study.config).csv())

    def _with(self, overrides: Sequence[str]) -> "Study":
        tree = self.config.model_dump(mode="json")
        config = resolve_study(tree, _listed(overrides), source=str(self.folder))
        return Study(self.folder, found_from(config, Path()))

    def _repr_html_(self) -> str:
        """What a notebook shows: name, counts, the front as a figure and as a table."""
        from cfamc_ray.figures.charts import front_chart  # noqa: PLC0415 (matplotlib is slow to import)
        from cfamc_ray.figures.static import draw  # noqa: PLC0415
        from cfamc_ray.report.contents import counts  # noqa: PLC0415

        image = io.BytesIO()
        draw(front_chart(self._front, title=self.config.question or self.config.name)).savefig(image, format="png")
        figure = base64.b64encode(image.getvalue()).decode()
        return (
            f"<h3>{html.escape(self.config.name)}</h3>"
            f"<p>{html.escape(counts(self.config, read_trials(self.folder)))} · {html.escape(str(self.folder))}</p>"
            f'<img alt="the front" width="{FIGURE_PIXELS}" src="data:image/png;base64,{figure}">'
            f"{self.front.to_html(index=False, na_rep='')}"
        )


def run_study(
    space: Space,
    *,
    out: Path | str = "runs",
    overrides: Sequence[str] = (),
    resume: bool = False,
    warm_start: Sequence[Path | str] = (),
    costs: Path | str | None = None,
    mirror: str | None = None,
    address: str | None = None,
    verbose: bool = False,
) -> Study:
    """Search a space for its front, and confirm that where the space says so; ``python -m cfamc_ray.tune`` does this.

    Args:
        space: path of a YAML file, bare name of a given space, or a mapping with the same keys.
        out: folder that studies lie in; this one's is named after it.
        overrides: ``key=value`` as after ``--set``, such as ``budget.trials=20``.
        resume: whether an unfinished study is to go on.
        warm_start: folders of earlier studies on the same space whose trials count as tried.
        costs: folder of a scaling study, whose models of time and memory are used.
        mirror: URI of an object store that keeps a copy of the folder.
        address: of a running Ray cluster, ``auto`` or ``HOST:PORT``. None for the one that this process is connected
            to, or else for one that is started here and stopped at the end.
        verbose: whether progress is printed.

    Returns:
        the study, finished; its front may be empty.

    Raises:
        InputError: for whatever is wrong with the space, the folder, the images or the cluster.
        KeyboardInterrupt: where it was interrupted; `Study.resume`, or ``resume=True``, goes on.
    """
    study = planned(space, out=out, overrides=overrides)
    models = None if costs is None else read_costs(Path(costs), study.config, training_work)
    with mirrored(study.folder, mirror):
        search(study, resume=resume, warm_start=warm_start, costs=models, address=address, narrator=_narrator(verbose))
    return study


def open_study(folder: Path | str) -> Study:
    """A study that has been run, or still runs, to be looked at or resumed.

    Args:
        folder: of the study, or of a training run.

    Raises:
        InputError: where it holds none.
    """
    study = Study(Path(folder).resolve(), read_config(Path(folder)))
    warn_of_damage(study.folder)
    return study


def planned(space: Space, *, out: Path | str = "runs", overrides: Sequence[str] = ()) -> Study:
    """A study as it would run; nothing is written. Arguments and errors as for `run_study`."""
    tree, said, place = _read_space(space)
    config = found_from(resolve_study(tree, _listed(overrides), source=said), place)
    return Study((runs_folder(out) / config.name).resolve(), config)


def _read_space(space: Space) -> tuple[dict[str, Any], str, Path]:
    """Keys of a space, what errors call it, and where relative paths are looked up after the working directory."""
    if isinstance(space, Mapping):
        return copy.deepcopy(dict(space)), "the space", Path()
    if not isinstance(space, str | os.PathLike):
        raise InputError(f"{space!r}: a space is a path, a name or a mapping")
    path = find_space(os.fspath(space))
    return read_tree(path), str(path), path.parent


def train(
    recipe_or_space: Space,
    *,
    name: str | None = None,
    variant: Variant = VARIANTS[0],
    out: Path | str = "runs",
    overrides: Sequence[str] = (),
    workers: int = 1,
    device: Device = "auto",
    resume: bool = False,
    mirror: str | None = None,
    address: str | None = None,
    verbose: bool = False,
) -> Study:
    """Train one configuration and keep it as a study of one trial; ``python -m cfamc_ray.train`` does this.

    Args:
        recipe_or_space: name of a published recipe, folder of a trial that a study has tried, or a space whose searched
            keys, if it has any, are all fixed by the overrides.
        name: of the run and its folder; the recipe's, the trial's or the space's unless given.
        variant: of a recipe, ``corrected`` or ``published``.
        out: folder that runs lie in.
        overrides: ``key=value`` as after ``--set``, such as ``pretraining.epochs=2``.
        workers: data-parallel workers; one trains in this process, more need Ray.
        device: ``auto``, ``cpu`` or ``cuda``.
        resume: whether an unfinished run is to go on.
        mirror: as for `run_study`.
        address: likewise, for several workers.
        verbose: whether progress is printed.

    Returns:
        the study, whose only trial has finished, or has failed for the reason that its row names.

    Raises:
        InputError: for whatever is wrong with what was given, the folder or the images.
        KeyboardInterrupt: where it was interrupted; every finished epoch is kept, and ``resume=True`` goes on.
    """
    source = source_of(recipe_or_space, variant)
    study = planned_run(
        source, name=name, out=out, overrides=overrides, workers=workers, device=device, address=address
    )
    with mirrored(study.folder, mirror):
        like = source.studies(overrides)
        train_planned(study, resume=resume, like=like, address=address, detail=_narrator(verbose).detail)
    return study


@dataclass(frozen=True)
class Source:
    """What a run is made from."""

    keys: Mapping[str, Any]
    """Of a study: its name, and what the run's trial is."""
    said: str
    """What errors call it."""
    place: Path = Path()
    """Where relative paths are looked up after the working directory."""
    trial: Path | None = None
    """Folder of the trial, where it is one of a study."""

    def studies(self, overrides: Sequence[str]) -> list[Path]:
        """Folders of studies that are about the images of the run, unless an override names others."""
        others = any(text.startswith(("data.", "evaluation.transfer")) for text in overrides)
        return [self.trial.resolve().parent] if self.trial and not others else []


def source_of(recipe_or_space: Space, variant: Variant) -> Source:
    """What `train` is given, whatever it is; errors as for `train`."""
    if isinstance(recipe_or_space, str) and recipe_or_space in recipe_names():
        return recipe_source(recipe_or_space, variant)
    if isinstance(recipe_or_space, str | os.PathLike) and Path(recipe_or_space).is_dir():
        return trial_source(Path(recipe_or_space), variant)
    if variant != VARIANTS[0]:
        raise InputError("variant: a space names its own; leave it out")
    if isinstance(recipe_or_space, str | os.PathLike):
        try:
            find_space(os.fspath(recipe_or_space))
        except InputError as error:
            raise InputError(f"{error}. Recipes: {', '.join(recipe_names())}") from None
    tree, said, place = _read_space(recipe_or_space)
    of_search = ("search", "start_from", "confirm", "reference")
    return Source({key: value for key, value in tree.items() if key not in of_search}, said, place)


def recipe_source(name: str, variant: Variant) -> Source:
    """A published system; errors as for `train`."""
    recipe = read_recipe(name)
    suffix = "" if variant == VARIANTS[0] else f"-{variant}"
    known = {"base": recipe.name, "variant": variant, "question": recipe.summary}
    return Source({"name": recipe.name + suffix, **known}, f"recipe {name}")


def trial_source(folder: Path, variant: Variant) -> Source:
    """What a trial was, whatever recipe and variant it came from; errors as for `train`."""
    path = folder.resolve()
    config = read_config(path.parent)
    record = next((record for record in read_trials(path.parent) if record.trial_id == path.name), None)
    if record is None:
        damaged = [
            f" ({found.path.name}: {found.why})" for found in damaged_records(path.parent) if path in found.path.parents
        ]
        remedy = f"name one such as {path.parent / trial_name(0)}"
        raise InputError(f"--trial {folder}: holds no trial{''.join(damaged)}; {remedy}")
    if variant != VARIANTS[0]:
        raise InputError("--variant: a trial has that of its study; leave it out")
    keys = {
        "name": f"{config.name}-{record.trial_id}",
        "question": f"{record.trial_id} of {config.name}",
        "trial": config.trial_at(record.point).model_dump(mode="json"),
    }
    return Source(keys, str(folder), trial=folder)


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
    """Fit a head on a frozen encoder and attack both, on the test split; ``python -m cfamc_ray.evaluate`` does this.

    Args:
        run: folder of a run or of a trial, or what `train` returned; with `untrained` also a recipe.
        protocol: ``standard``, ``published-emp`` or ``published-simclr``.
        head: another head than the protocol's, such as ``adversarial``.
        overrides: ``key=value`` of the protocol, such as ``images=500``; or ``data.path=PATH``, where the images are.
        transfer: other images to probe and test on: cifar10, cifar100, digits, npz:PATH or imagefolder:PATH.
        untrained: evaluate the initial weights, the floor of a table.
        device: ``auto``, ``cpu`` or ``cuda``.
        out: file of the record; evaluations/… in the trial's folder unless given.
        plugins: modules that register attacks, for ``attack.name=NAME`` among the overrides.
        verbose: whether progress is printed.

    Returns:
        what was measured; its record is written. Where its `problem` is not empty, it is not to be trusted.

    Raises:
        InputError: for whatever is wrong with what was given, or where the record cannot be written.
    """
    for kind, name, known in (("protocol", protocol, PROTOCOLS), ("head", head, HEADS)):
        if name is not None and name not in known:
            raise InputError(f"{kind}: there is no {name!r}; there are {', '.join(known)}")
    (plan,) = planned_evaluations(
        str(run.folder if isinstance(run, Study) else run),
        [protocol],
        head=head,
        overrides=_listed(overrides),
        transfer=transfer,
        untrained=untrained,
        device=device,
        plugins=_listed(plugins),
    )
    path = None if out is None else Path(out)
    found = evaluate_run(*plan, out=path, detail=_narrator(verbose).detail)
    try:
        found.write()
    except InputError as error:
        error.add_note(json.dumps(found.record))  # what was computed is not lost
        raise
    if found.problem:
        logger.warning("%s: the result is not to be trusted. %s", found.run.name, found.problem)
    return found


def planned_run(
    source: Source,
    *,
    name: str | None = None,
    out: Path | str = "runs",
    overrides: Sequence[str] = (),
    workers: int = 1,
    device: Device = "auto",
    address: str | None = None,
) -> Study:
    """A run as it would be trained; nothing is written. Arguments and errors as for `train`."""
    import torch  # noqa: PLC0415 (slow to import)

    if workers < 1:
        raise InputError(f"--workers {workers}: must be at least 1")
    gpu_is_here = torch.cuda.is_available()
    on_gpu = gpu_is_here if device == "auto" else device == "cuda"
    if on_gpu and not gpu_is_here:
        raise InputError("--device cuda: torch finds no GPU here; leave it out to train on the CPU")
    tree = {
        **copy.deepcopy(dict(source.keys)),
        **({"name": name} if name else {}),
        "budget": {"trials": 1},
        "resources": {
            "workers_per_trial": workers,
            "cpus_per_worker": max(1, cores() // workers),
            "gpus_per_worker": 1.0 if on_gpu else 0.0,
        },
    }
    config = resolve_study(tree, _listed(overrides), source=source.said)
    if (config.base, config.variant) != (source.keys.get("base"), source.keys.get("variant", VARIANTS[0])):
        raise InputError("--set base, --set variant: name them with --recipe and --variant")
    if config.space:
        raise InputError("--set space: a run has no space to search; python -m cfamc_ray.tune has")
    if config.budget.trials != 1:
        raise InputError("--set budget.trials: a run is one trial; python -m cfamc_ray.tune trains several")
    if config.resources.workers_per_trial == 1:
        if address:
            raise InputError("--address: one worker needs no cluster; add --workers N")
        if config.resources.gpus_per_worker and not gpu_is_here:
            raise InputError("--set resources.gpus_per_worker: torch finds no GPU here; leave it out")
    config = found_from(config, source.place)
    return Study((runs_folder(out) / config.name).resolve(), config)


def train_planned(
    study: Study, *, resume: bool = False, like: Sequence[Path] = (), address: str | None = None, detail: Detail
) -> TrialRecord:
    """Begin a run or go on with it until it has ended.

    Args:
        study: of one trial.
        resume: as for `train`, and so is `address`.
        like: folders of studies that are about the same images.
        address: likewise.
        detail: how much is said meanwhile.

    Raises:
        InputError: as for `train`.
        KeyboardInterrupt: likewise.
    """
    config, folder = study.config, study.folder
    if not check_folder(config, folder, resume=resume):
        digests = check_data(config, [config.trial], folder, *like)
        with driving(folder):
            _open(study)
            note(folder, digests, config=config)
            say(f"{config.name} → {folder}", detail)
            if config.resources.workers_per_trial == 1:
                _train_here(study, detail)
            else:
                _train_with_ray(study, address, detail)
    record = TrialFolder(folder, 0).read()
    assert record is not None
    return record


def _open(study: Study) -> None:
    folder = study.folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_config(folder, study.config)
        write_text(folder / ENVIRONMENT, json.dumps(environment(), indent=1) + "\n")
    except OSError as error:
        raise InputError(f"{folder}: cannot be written ({error.strerror}); name another folder with --out") from None


def _train_here(study: Study, detail: Detail) -> None:
    import torch  # noqa: PLC0415 (slow to import)

    from cfamc_ray.training.place import Place  # noqa: PLC0415
    from cfamc_ray.training.recording import run_recorded  # noqa: PLC0415

    for line in repair(study.folder, lambda: {0: {}}):
        logger.warning(line)
    place = Place(device=torch.device("cuda" if study.config.resources.gpus_per_worker else "cpu"))
    trial_folder, threads = TrialFolder(study.folder, 0), torch.get_num_threads()
    try:
        with TrainingView(trial_folder, study.config, sys.stdout, detail=detail) as view:
            for _ in run_recorded(study.config, trial_folder, {}, place, on_minibatch=view.advance):
                view.show()
    finally:
        torch.set_num_threads(threads)


def _train_with_ray(study: Study, address: str | None, detail: Detail) -> None:
    from cfamc_ray.orchestration.run import run_study  # noqa: PLC0415 (needs Ray)

    view_on = partial(TrainingView, TrialFolder(study.folder, 0))
    if not run_study(study.config, study.folder, address=address, detail=detail, view_on=view_on):
        raise KeyboardInterrupt


@dataclass(frozen=True)
class Found:
    """What a search has found, and where that is written."""

    records: Sequence[TrialRecord]
    front: Front
    report: Path
    over: StopReason | None = None
    """Why the study is over; None where it was interrupted, or was over before."""

    @property
    def failed(self) -> bool:
        """Whether there is no front, or the study ended because its trials failed alike."""
        return not self.front.members or (self.over is not None and self.over.kind == "failed_alike")


@dataclass(frozen=True)
class Narrator:
    """Who tells a person how a study goes; this one tells what `detail` asks for on the way, and no results."""

    detail: Detail = "quiet"

    def found(self, study: Study, found: Found) -> None:
        """The search is over, or was interrupted; its tables and its report are written."""

    def confirmed(self, study: Study, confirmed: Sequence[Confirmation], report: Path) -> None:
        """The front is confirmed; likewise."""


def search(
    study: Study,
    *,
    resume: bool = False,
    warm_start: Sequence[Path | str] = (),
    costs: CostModel | None = None,
    address: str | None = None,
    narrator: Narrator,
) -> Found:
    """Begin a study or go on with it until it is over, write what it has found, and confirm that where it says so.

    Args:
        study: to be run.
        resume: as for `run_study`, and so are `warm_start` and `address`.
        warm_start: likewise.
        costs: what was measured elsewhere.
        address: likewise.
        narrator: is told of it.

    Raises:
        InputError: as for `run_study`.
        KeyboardInterrupt: where it was interrupted; what it had found is written by then.
    """
    config, folder = study.config, study.folder
    over = Budget(config, work_of=training_work, costs=costs).over
    if check_folder(config, folder, resume=resume, over=over) and not warm_start:
        found = _finish(study, narrator)
    else:
        digests = check_data(config, [SearchSpace(config).first_trial], folder)
        with driving(folder):
            write_config(folder, config)
            note(folder, digests, config=config)
            for source in warm_start:
                taken = warm_start_from(config, folder, Path(source))
                say(f"{taken} trials warm-started from {source}", narrator.detail)
            found = _run(study, costs, address, narrator)
    if config.confirm is not None and not found.failed:
        confirm(study, address=address, narrator=narrator)
    return found


def _run(study: Study, costs: CostModel | None, address: str | None, narrator: Narrator) -> Found:
    """Run trials until the study is over.

    Raises:
        KeyboardInterrupt: where it was interrupted; what it has found so far is written and told.
    """
    from cfamc_ray.orchestration.run import run_study  # noqa: PLC0415 (Ray is slow to import)

    config, folder = study.config, study.folder
    at_once = f"{config.budget.trials} trials, {config.resources.trials_at_once} at once"
    say(f"{config.name}: {at_once} → {folder}", narrator.detail)
    say(f"Ray is starting; what it says goes to {folder / RAY_LOG}", narrator.detail)
    before_end(lambda: _finish(study, narrator))
    try:
        over = run_study(config, folder, address=address, detail=narrator.detail, costs=costs)
    except KeyboardInterrupt:  # before Tune listens for it, or a second time
        over = None
    found = _finish(study, narrator, over=over)
    if over is None:
        raise KeyboardInterrupt
    return found


def _finish(study: Study, narrator: Narrator, *, over: StopReason | None = None) -> Found:
    """Write the derived files, keep the encoders that are asked for, and tell the front."""
    from cfamc_ray.report.page import write_report  # noqa: PLC0415 (matplotlib and Plotly are slow to import)

    config, folder, records = study.config, study.folder, read_trials(study.folder)
    front = find_front(config, records)
    for name, rows in ((TRIALS, records), (FRONT, front.members)):
        write_text(folder / name, _trials_csv(config, rows))
    kept = {record.number for record in front.members}
    if config.keep_encoders == "front":
        for record in records:
            if record.status == "finished" and record.number not in kept:
                TrialFolder(folder, record.number).encoder.unlink(missing_ok=True)
    found = Found(records, front, write_report(folder), over)
    narrator.found(study, found)
    return found


def confirm(study: Study, *, address: str | None = None, narrator: Narrator) -> list[Confirmation]:
    """Train and test the front anew; `study.config.confirm` must be set.

    Args:
        study: whose front is confirmed.
        address: as for `run_study`.
        narrator: is told of it.

    Returns:
        what that shows of each candidate.

    Raises:
        InputError: as for `run_study`.
        KeyboardInterrupt: where it was interrupted; what is confirmed so far is written by then.
    """
    from cfamc_ray.orchestration.confirmation import run_confirmation  # noqa: PLC0415 (Ray is slow to import)
    from cfamc_ray.report.page import write_report  # noqa: PLC0415

    config, folder = study.config, study.folder
    assert config.confirm is not None
    known = confirmed_front(config, folder)
    if not known or any(found.seeds < config.confirm.seeds for found in known):
        check_data(config, [SearchSpace(config).first_trial], folder)
    say(f"\nThe front is confirmed with {config.confirm.seeds} fresh seeds → {folder / CONFIRM}", narrator.detail)
    complete = False
    with driving(folder):
        write_config(folder, config)
        with suppress(KeyboardInterrupt):
            complete = run_confirmation(config, folder, address=address, detail=narrator.detail)
        confirmed = confirmed_front(config, folder)
        write_confirmation(config, folder, confirmed)
    if not complete:
        raise KeyboardInterrupt
    narrator.confirmed(study, confirmed, write_report(folder))
    return confirmed


def _narrator(verbose: bool) -> Narrator:
    return Narrator("normal" if verbose else "quiet")


def _listed(overrides: Sequence[str]) -> Sequence[str]:
    if isinstance(overrides, str):
        raise InputError(f"overrides: write a list, [{overrides!r}]")
    return overrides


def _trials_csv(config: StudyConfig, records: Sequence[TrialRecord]) -> str:
    return trials_table(config, records).csv()


def _frame(text: str) -> "pd.DataFrame":
    """A table from CSV: numbers as numbers, and an empty cell as NaN; no word in it means something else."""
    import pandas as pd  # noqa: PLC0415 (slow to import)

    return pd.read_csv(io.StringIO(text), keep_default_na=False, na_values=[""])
