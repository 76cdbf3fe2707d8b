"""A scaling study: how the cost of training steps grows with its factors, and how accuracy grows with the budget."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import product
from typing import Annotated, Any, NamedTuple

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from cfamc_ray.config.budget import BudgetConfig
from cfamc_ray.config.ranges import Choice
from cfamc_ray.config.resources import ResourceConfig
from cfamc_ray.config.search import ListedConfig, SearchConfig
from cfamc_ray.config.study import StudyConfig
from cfamc_ray.config.trial import TrialConfig, trial_keys
from cfamc_ray.config.types import Real, Scalar, Strict, is_number, plain

EPOCHS = "pretraining.epochs"
WORKERS = "workers"
MANY_IMAGES = 10**9
"""More images than any minibatch has."""
Values = Annotated[tuple[Annotated[Scalar, BeforeValidator(plain)], ...], Field(min_length=1, strict=False)]


class LearningConfig(Strict):
    """Trials in groups of equal cost, which differ only in the allocation of their crop passes.

    A scaling study also has `name`, `question`, `resources` and `trial`, like a study.
    """

    crop_passes: tuple[int, ...] = Field(default=(), strict=False)
    """Budgets of a trial in crop passes, ascending; if empty, the study has no learning part."""
    split: dict[str, Values] = {"crops.views": (2, 4, 8), "pretraining.replays": (1, 3)}
    """Keys and values; every combination is trained at every budget, for as many epochs as the budget allows."""
    vary: dict[str, Values] = {}
    """Keys whose values are trained one at a time at every budget, with all other keys as in `trial`."""
    seeds: tuple[int, ...] = Field(default=(2, 1), strict=False)
    """Number of seeds of each budget; the last number holds for all further budgets."""
    tolerance: Real = Field(default=0.02, ge=0, lt=0.5)
    """Largest deviation of whole epochs from a budget, as a fraction of it; other combinations are left out."""

    @model_validator(mode="after")
    def _sensible(self) -> "LearningConfig":
        if list(self.crop_passes) != sorted(set(self.crop_passes)) or min(self.crop_passes, default=1) < 1:
            raise ValueError(f"crop_passes must ascend from at least 1, not {list(self.crop_passes)}")
        if len(self.crop_passes) == 1:
            raise ValueError("crop_passes must have at least two budgets: one does not show growth")
        if not self.seeds or min(self.seeds) < 1:
            raise ValueError(f"seeds must be at least 1 for each budget, not {list(self.seeds)}")
        for key in (*self.split, *self.vary):
            if key not in trial_keys() or key in (EPOCHS, "seed"):
                raise ValueError(f"{key}: no key of a trial that can be varied; epochs and seeds are set automatically")
        for key, values in (*self.split.items(), *self.vary.items()):
            if any(is_number(value) and value <= 0 for value in values):
                raise ValueError(
                    f"{key}: sizes must be above 0, since the laws are of their powers, not {list(values)}"
                )
        return self


class SystemConfig(Strict):
    """Training steps to measure on random images, each combination in fresh processes."""

    grid: dict[str, Values] = {}
    """Keys of a trial, or `workers`, and their values; every combination is measured. Workers share a minibatch, so
    adding workers is strong scaling at the same minibatch and weak scaling from a smaller one. Without `grid` and
    `vary` the study has no system part."""
    vary: dict[str, Values] = {}
    """Keys whose values are measured one at a time, with one worker and all other keys as in `trial`."""
    minibatches: int = Field(default=2, ge=1)
    """Number of minibatches of each repeat, each trained with all its replays."""
    warm_ups: int = Field(default=1, ge=0)
    """Number of repeats before the first that is measured."""
    repeats: int = Field(default=3, ge=1)
    """Number of measured repeats; tables show their median and range."""

    @model_validator(mode="after")
    def _known_keys(self) -> "SystemConfig":
        for key, values in (*self.grid.items(), *self.vary.items()):
            if key != WORKERS and (key not in trial_keys() or key.startswith("evaluation.") or key == EPOCHS):
                raise ValueError(f"{key}: neither {WORKERS} nor a key of a trial that its training steps depend on")
            if key == WORKERS and not all(isinstance(count, int) and count >= 1 for count in values):
                raise ValueError(f"{WORKERS} must be whole numbers from 1, not {list(values)}")
        return self


class Cell(NamedTuple):
    """One combination of training steps to measure."""

    workers: int
    values: Mapping[str, Scalar]
    """Values of the keys that vary among cells."""
    trial: TrialConfig
    hardware: str
    """Hardware of each worker, such as 1cpu."""

    @property
    def name(self) -> str:
        """Name of the cell's file: equal for equal steps on equal hardware, independent of other cells."""
        return f"cell_{self.trial.fingerprint}_{self.workers}x{self.hardware}"


class ScalingConfig(Strict):
    """A scaling space, resolved."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=100)
    """Name of the run and of its folder."""
    question: str = ""
    """The question that the run should answer, in a sentence."""
    plugins: tuple[str, ...] = Field(default=(), strict=False)
    """Your own modules that register components, as in a study."""
    resources: ResourceConfig = ResourceConfig()
    """Resources of the learning part's trials; the system part uses their threads and GPUs per worker."""
    trial: TrialConfig = TrialConfig()
    """Keys that all trials share."""
    system: SystemConfig = SystemConfig()
    learning: LearningConfig = LearningConfig()

    @model_validator(mode="after")
    def _measurable(self) -> "ScalingConfig":
        if self.trial.stages:
            raise ValueError("trial.stages: a scaling study compares trials of one stage; leave it out")
        measures = bool(self.system.grid or self.system.vary)
        if not measures and not self.learning.crop_passes:
            raise ValueError("nothing to do: write system.grid, learning.crop_passes, or both")
        if measures and not self.cells:
            raise ValueError("system: no combination of grid is a valid trial whose minibatches its workers can share")
        for cell in self.cells:
            if cell.workers > 1:
                self.resources.check_sharing()
            cell.trial.check_share(cell.workers, gpus=self.resources.gpus_per_worker > 0)
        return self

    @model_validator(mode="after")
    def _affordable(self) -> "ScalingConfig":
        for passes in self.learning.crop_passes:
            if not any(True for _ in self._points(passes)):
                raise ValueError(
                    f"learning.crop_passes: no combination of split spends {passes} in whole epochs; an epoch of "
                    f"trial takes {self.trial.crop_passes_per_epoch}"
                )
        return self

    @property
    def cells(self) -> list[Cell]:
        """Cells of the system part, without combinations that are no valid trial or cannot be shared evenly."""
        system = self.system
        keys = list(dict.fromkeys((*system.grid, *system.vary)))
        if not keys:
            return []
        defaults = {key: 1 if key == WORKERS else self.trial.value_of(key) for key in keys}
        rows = [defaults | dict(zip(system.grid, values, strict=True)) for values in product(*system.grid.values())]
        rows += [defaults | {key: value} for key, values in system.vary.items() for value in values]
        cells = {}
        for row in rows:
            with suppress(ValidationError):
                cell = self._cell(row)
                if cell.trial.pretraining.batch_images % cell.workers == 0:
                    cells[cell.name] = cell
        return list(cells.values())

    def _cell(self, row: Mapping[str, Scalar]) -> Cell:
        system, workers = self.system, row.get(WORKERS, 1)
        assert isinstance(workers, int), "validated"
        trial = self.trial.with_values(
            {key: value for key, value in row.items() if key != WORKERS}
            | {
                "data.pretrain_images": MANY_IMAGES,
                "data.validation_images": 0,
                "evaluation.transfer": None,
                EPOCHS: 2 * (system.warm_ups + system.repeats) + 1,  # with and without communication; the phases
            }
        )
        images = system.minibatches * trial.pretraining.batch_images
        resources = self.resources
        gpus = resources.gpus_per_worker
        hardware = f"{gpus:g}gpu" if gpus else f"{resources.cpus_per_worker}cpu"
        return Cell(workers, row, trial.with_values({"data.pretrain_images": images}), hardware)

    @property
    def learning_points(self) -> list[dict[str, Scalar]]:
        """Points of the learning part: small budgets first, and within a budget one seed after the other."""
        all_points: list[dict[str, Scalar]] = []
        for place, passes in enumerate(self.learning.crop_passes):
            points = list(self._points(passes))
            seeds = self.learning.seeds[min(place, len(self.learning.seeds) - 1)]
            all_points += [{**point, "seed": seed} for seed in range(seeds) for point in points]
        return all_points

    def in_trial(self, keys: Iterable[str]) -> dict[str, Scalar]:
        """The values that `trial` has of some keys."""
        return {key: self.trial.value_of(key) for key in keys}

    def _points(self, passes: int) -> Iterator[dict[str, Scalar]]:
        """Points of a budget, with a value for every key, including epochs."""
        keys = (*self.learning.split, *self.learning.vary)
        shared = self.in_trial(keys)
        rows: list[Mapping[str, Scalar]] = [
            dict(zip(self.learning.split, values, strict=True)) for values in product(*self.learning.split.values())
        ]
        rows += [{key: value} for key, values in self.learning.vary.items() for value in values]
        seen: list[dict[str, Scalar]] = []
        for row in rows:
            point = {**shared, **row}
            epochs = self.epochs_for(point, passes)
            if epochs and point not in seen:
                seen.append(point)
                yield {**point, EPOCHS: epochs}

    def epochs_for(self, point: Mapping[str, Scalar], passes: int) -> int:
        """Number of epochs that spends a budget; 0 if no whole number is close enough or the point is invalid."""
        try:
            each = self.trial.with_values(dict(point)).crop_passes_per_epoch
        except ValidationError:
            return 0
        epochs = max(1, round(passes / each))
        return epochs if abs(epochs * each / passes - 1) <= self.learning.tolerance else 0

    @property
    def learning_study(self) -> StudyConfig:
        """The learning part as a study whose points are all listed in `start_from`."""
        points = self.learning_points
        values: dict[str, Any] = {key: list(dict.fromkeys(point[key] for point in points)) for key in points[0]}
        return StudyConfig(
            name="learning",
            question=self.question,
            plugins=self.plugins,
            search=SearchConfig(sampler=ListedConfig()),
            budget=BudgetConfig(trials=len(points)),
            resources=self.resources,
            trial=self.trial,
            space={key: Choice(choice=tuple(each)) for key, each in values.items()},
            start_from=tuple(points),
        )
