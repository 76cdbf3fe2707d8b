"""A study: a question, objectives, a space of trials, a budget and the machines it may use."""

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice, product
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    SerializationInfo,
    ValidationError,
    field_serializer,
    field_validator,
    model_validator,
)

from cfamc_ray.config.components import branch
from cfamc_ray.config.constraints import Constraint
from cfamc_ray.config.errors import InputError
from cfamc_ray.config.evaluation import EvaluationConfig
from cfamc_ray.config.protocol import PGD_20, ProtocolConfig
from cfamc_ray.config.ranges import Choice, Constant, FloatRange, IntRange, Range, dump_range, parse_range
from cfamc_ray.config.recipes import VARIANTS, Variant, read_recipe
from cfamc_ray.config.trial import TrialConfig, lay_trials, trial_keys, without_paths
from cfamc_ray.config.types import Real, Scalar, Strict, plain

Direction = Literal["maximize", "minimize"]
Point = Mapping[str, Scalar]
"""Searched keys and their values."""

METRICS: dict[str, Direction] = {
    "clean_accuracy": "maximize",
    "robust_accuracy": "maximize",
    "crop_passes": "minimize",
    "flops": "minimize",
    "peak_memory_bytes": "minimize",
}
"""What a finished trial can be judged by, with the direction that makes sense. Seconds are reported, not optimised:
they depend on what else the machine does."""
PLANNED_COSTS = ("crop_passes", "flops")
"""Metrics that are known before a trial runs and grow evenly with its epochs."""


IDENTITY = {"objectives", "search", "variant", "trial", "space", "constraints"}
RANDOM_POINTS = 4096
"""Tried to see whether the constraints can be met."""


class MultiObjectiveAshaConfig(Strict):
    """MO-ASHA: at each rung the trials that fall behind in all that counts are stopped."""

    rungs: tuple[Real, ...] = Field(default=(0.25, 0.5), strict=False, min_length=1)
    """Shares of a trial's own epochs after which it is judged, between 0 and 1."""
    keep: Real = Field(default=0.5, gt=0, lt=1)
    """Share of the trials at a rung that go on: the best by non-dominated rank, then by spread."""

    @model_validator(mode="after")
    def _between_begin_and_end(self) -> "MultiObjectiveAshaConfig":
        if not all(0 < rung < 1 for rung in self.rungs):
            raise ValueError(f"rungs must lie between 0 and 1, not {list(self.rungs)}")
        return self


class SearchConfig(Strict):
    """How the next point is chosen, and which trials are stopped early."""

    sampler: Literal["front", "tpe", "nsga2", "nsga3", "gp", "random", "grid"] = "front"
    """`front`, ours: the point that should add most to the hypervolume, as Gaussian processes expect it. Or Optuna's:
    tree-structured Parzen estimator, two genetic algorithms, Gaussian process, random. Or a grid: all points that meet
    the constraints, in the order in which the last key of the space changes fastest."""
    startup_trials: int = Field(default=6, ge=1)
    """Trials before a sampler learns: far apart for `front`, random for the others; the genetic ones' population."""
    seed: int = Field(default=0, ge=0)
    """Seed of the sampler; with one trial at a time it fixes all points."""
    mo_asha: MultiObjectiveAshaConfig | None = None
    """Null: every trial runs to its end."""


class PlateauConfig(Strict):
    """When a front counts as grown up."""

    trials: int = Field(default=16, ge=1)
    """So many trials in a row ..."""
    tolerance: Real = Field(default=0.01, ge=0)
    """... have to add less than this share of the hypervolume together."""


class BudgetConfig(Strict):
    """When the study ends: whichever limit is reached first."""

    trials: int = Field(default=16, ge=1)
    """How many points are tried, failed and stopped ones included; imported and refused ones cost nothing."""
    crop_passes: Real | None = Field(default=None, gt=0)
    """Over all trials; a point that does not fit what is left is refused before it starts. Null: no limit."""
    flops: Real | None = Field(default=None, gt=0)
    """Of training, over all trials; likewise."""
    hours: Real | None = Field(default=None, gt=0)
    """Time of the trials over trials_at_once, so about that of the study; likewise, as fitted to the trials so far."""
    plateau: PlateauConfig | None = None
    """Ends a study whose front no longer grows; null: it does not."""


class ConfirmConfig(Strict):
    """What is done with the front once the search is over: trained anew, and attacked in earnest on the test split."""

    seeds: int = Field(default=5, ge=1)
    """Fresh seeds with which each point is trained again."""
    tolerance: Real = Field(default=0.05, ge=0, le=1)
    """Points count as near the front, and are confirmed too, if no trial dominates them any more once all their
    objectives are improved by this share of the front's range."""
    attacks: tuple[Literal["pgd20", "autoattack"], ...] = Field(
        default=("pgd20", "autoattack"), strict=False, min_length=1
    )
    """At evaluation.epsilon: PGD of 20 steps, then AutoAttack's standard version on what it left. The last one
    named stands for robust accuracy."""
    images: int = Field(default=10_000, ge=1)
    """Test images for clean accuracy, a stratified sample seeded by `data.split_seed`; all of them where there are
    fewer."""
    attacked_images: int = Field(default=1_000, ge=1)
    """How many of `images` every attack sees, a stratified sample too; all of them where there are fewer."""

    def protocol(self, evaluation: EvaluationConfig) -> ProtocolConfig:
        """What is measured of a fresh encoder.

        Args:
            evaluation: of its trial, of which the radius and the batch count.
        """
        epsilon = evaluation.epsilon
        automatic = "autoattack" in self.attacks
        return ProtocolConfig(
            name="confirm",
            images=self.images,
            attacked_images=self.attacked_images,
            epsilons=(epsilon,),
            attack=PGD_20,
            autoattack_images=self.attacked_images if automatic else 0,
            autoattack_epsilons=(epsilon,) if automatic else (),
            batch_images=evaluation.batch_images,
        )


class ResourceConfig(Strict):
    """What runs at once, and what each trial may use."""

    trials_at_once: int = Field(default=1, ge=1)
    """How many trials train beside each other."""
    workers_per_trial: int = Field(default=1, ge=1)
    """Data-parallel workers of a trial; each takes its share of every minibatch."""
    cpus_per_worker: int = Field(default=1, ge=1)
    """Processor cores, and so threads, of each worker."""
    gpus_per_worker: Real = Field(default=0.0, ge=0)
    """GPUs of each worker: 0 (it computes on CPUs), a fraction such as 0.5 (two share one), or 1."""
    minutes_per_trial: Real | None = Field(default=None, gt=0)
    """A trial that is not done after so long is stopped; null: no limit."""
    memory_gb_per_worker: Real | None = Field(default=None, gt=0)
    """Points that are expected to need more are refused before they start, as soon as trials of two sizes, or a scaling
    study (`--costs`), have shown what memory they take; null: its share of the GPU's memory or of this machine's."""
    restarts: int = Field(default=2, ge=0)
    """How often a trial whose process was killed from outside is started again, from its last epoch."""
    wait_minutes: Real = Field(default=10, ge=0)
    """How long a cluster that starts machines by itself (`--address`) is waited for, until all that runs at once has
    room."""

    @model_validator(mode="after")
    def _one_gpu(self) -> "ResourceConfig":
        if self.gpus_per_worker > 1:
            raise ValueError(f"gpus_per_worker must not exceed 1, not {self.gpus_per_worker}: add workers instead")
        if self.workers_per_trial > 1:
            self.check_sharing()
        return self

    def check_sharing(self) -> None:
        """Refuse workers that would share a GPU with each other, which NCCL cannot.

        Raises:
            ValueError: where several workers have a fraction of one each.
        """
        if 0 < self.gpus_per_worker < 1:
            raise ValueError(
                f"gpus_per_worker must be 0 or 1 for several workers, not {self.gpus_per_worker}: NCCL joins no two "
                "workers on one GPU; let several trials share it (trials_at_once) instead"
            )

    @property
    def cpus_at_once(self) -> int:
        """Cores that the study needs when all its places are taken."""
        return self.trials_at_once * self.workers_per_trial * self.cpus_per_worker

    @property
    def gpus_at_once(self) -> float:
        """GPUs that the study needs when all its places are taken."""
        return self.trials_at_once * self.workers_per_trial * self.gpus_per_worker


class StudyConfig(Strict):
    """A space file, resolved."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=100)
    """Name of the study and of its folder."""
    question: str = ""
    """What the study is to answer, in a sentence."""
    plugins: tuple[str, ...] = Field(default=(), strict=False)
    """Modules that register components of one's own; every process imports them (docs/extending.md)."""
    objectives: dict[str, Direction] = Field(
        default={"clean_accuracy": "maximize", "robust_accuracy": "maximize"}, min_length=1
    )
    """Metrics of a trial and their directions; the front is taken over all of them."""
    reference: dict[str, Real] = {}
    """Worst value of an objective that still counts for the hypervolume; 0 for what is maximised unless given. An
    objective that is minimised takes the worst finished value where none is given."""
    search: SearchConfig = SearchConfig()
    budget: BudgetConfig = BudgetConfig()
    resources: ResourceConfig = ResourceConfig()
    confirm: ConfirmConfig | None = None
    """Null: the front is what the search has seen once, on validation images."""
    start_from: tuple[str | dict[str, Annotated[Scalar, BeforeValidator(plain)]], ...] = Field(default=(), strict=False)
    """First points: names of recipes, whose values of the searched keys are taken, or points written out as
    `{crops.views: 4, …}` with a value for each searched key."""
    keep_encoders: Literal["front", "all"] = "front"
    """Whose encoders stay in the study folder at the end."""
    base: str | None = None
    """Recipe that all trials start from: its keys lie under those of `trial`. As a key of `space` it is searched."""
    variant: Variant = "corrected"
    """Of the recipes: corrected, or published, which follows every choice that the published code hides."""
    trial: TrialConfig = TrialConfig()
    """What all trials share; keys that are not given are those of the recipe, or have the defaults of the reference."""
    space: dict[str, Range] = {}
    """What is searched: a dotted key of a trial, or `base`, and its range."""
    constraints: tuple[Constraint, ...] = Field(default=(), strict=False)
    """Comparisons between keys that every point meets."""

    @model_validator(mode="before")
    @classmethod
    def _lay_on_recipe(cls, tree: Any) -> Any:
        match tree:
            case {"base": str(name)}:
                variant, written = tree.get("variant", VARIANTS[0]), tree.get("trial", {})
                if isinstance(written, TrialConfig):
                    written = written.model_dump(exclude_unset=True)
                if variant not in VARIANTS or not isinstance(written, Mapping):
                    return tree  # to be refused for that
                try:
                    return {**tree, "trial": lay_trials(read_recipe(name).tree(variant), written)}
                except InputError as error:
                    raise ValueError(f"base: {error}") from None
        return tree

    @field_validator("space", mode="before")
    @classmethod
    def _parse_space(cls, value: object) -> object:
        if not isinstance(value, Mapping):
            return value
        ranges: dict[object, Range] = {}
        for key, written in value.items():
            try:
                ranges[key] = parse_range(written)
            except ValidationError as error:
                problem = error.errors()[0]
                inner = ".".join(str(part) for part in problem["loc"])
                given = f" (it is {problem['input']!r})" if inner else ""
                raise ValueError(f"{key} {inner}: {_first_message(error)}{given}".replace(" : ", " ")) from None
            except ValueError as error:
                raise ValueError(f"{key} {error}") from None
        return ranges

    @field_validator("constraints", mode="before")
    @classmethod
    def _parse_constraints(cls, value: object) -> object:
        if not isinstance(value, list | tuple):
            return value
        constraints = []
        for written in value:
            try:
                constraints.append(written if isinstance(written, Constraint) else Constraint(str(written)))
            except ValueError as error:
                raise ValueError(f"{written!r} {error}") from None
        return tuple(constraints)

    @field_serializer("trial")
    def _dump_trial(self, value: TrialConfig, info: SerializationInfo) -> dict[str, Any]:
        """Where recipes are searched, what was not written stays open for them."""
        return value.model_dump(mode=info.mode, exclude_unset="base" in self.space)

    @field_serializer("space")
    def _dump_space(self, value: dict[str, Range]) -> dict[str, object]:
        return {key: dump_range(written) for key, written in value.items()}

    @field_serializer("constraints")
    def _dump_constraints(self, value: tuple[Constraint, ...]) -> list[str]:
        return [constraint.text for constraint in value]

    @property
    def first_points(self) -> list[dict[str, Scalar]]:
        """The points of `start_from`, with the keys of the space in its order.

        Raises:
            ValueError: for one that does not fit the space.
        """
        return [self._first_point(written) for written in self.start_from]

    def _first_point(self, written: str | Mapping[str, Scalar]) -> dict[str, Scalar]:
        name = written if isinstance(written, str) else dump_point(written)
        if isinstance(written, str):
            try:
                recipe = read_recipe(written).trial(self.variant)
            except InputError as error:
                raise ValueError(f"start_from: {error}") from None
            point = {key: written if key == "base" else recipe.value_of(key) for key in self.space}
        else:
            unknown = sorted(set(written) - set(self.space))
            if unknown:
                raise ValueError(f"start_from: {name}: {unknown[0]} is not a key of space: {', '.join(self.space)}")
            point = {key: written.get(key, constant_of(self.space[key])) for key in self.space}
        for key, value in point.items():
            if not self.space[key].contains(value):
                raise ValueError(
                    f"start_from: {name} has {key} {value!r}, which is not in space.{key} "
                    f"{dump_range(self.space[key])}: widen the range, or write another point as {{key: value, …}}"
                )
        if not self.admits(point):
            raise ValueError(f"start_from: {name} does not meet the constraints, or makes no valid trial: {point}")
        return point

    def contains(self, point: Point) -> bool:
        """Whether a point lies in the space and meets its constraints."""
        return (
            set(point) == set(self.space)
            and all(self.space[key].contains(value) for key, value in point.items())
            and self.admits(point)
        )

    @model_validator(mode="after")
    def _consistent(self) -> "StudyConfig":
        for name in self.objectives:
            if name not in METRICS:
                raise ValueError(f"objectives: no trial reports {name!r}")
        for name in self.reference:
            if name not in self.objectives:
                raise ValueError(f"reference: {name} is not among the objectives {', '.join(self.objectives)}")
        self._check_bases()
        self._check_ranges()
        self._check_points()
        if self.start_from and self.search.sampler == "grid":
            raise ValueError("start_from: search.sampler grid has its own order; leave one of them out")
        _ = self.first_points  # refuses what does not fit
        workers, batch = self.resources.workers_per_trial, "pretraining.batch_images"
        bases = self._values("base") if "base" in self.space else [None]
        sizes = [self.trial_at({"base": base}).pretraining.batch_images for base in bases]
        for size in self._values(batch) if batch in self.space else sizes:
            if not isinstance(size, int) or size % workers:
                raise ValueError(f"{batch} {size} cannot be shared evenly by resources.workers_per_trial {workers}")
        for point in islice(self.points(), 256 if workers > 1 else 0):
            self.trial_at(point).check_share(workers, gpus=self.resources.gpus_per_worker > 0)
        return self

    def _check_bases(self) -> None:
        if "base" not in self.space:
            if self.base is None and self.variant != "corrected":
                raise ValueError(f"variant: {self.variant} is one of a recipe: name it, as in base: cf-amc-ssl")
            return
        if self.base is not None:
            raise ValueError(f"base: {self.base} cannot be the recipe of all trials, for space.base searches it")
        for name in self._values("base"):
            if not isinstance(name, str):
                raise ValueError(f"space.base: {name!r} is no recipe: write {{choice: [cf-amc-ssl, simclr-crops-pgd]}}")
            try:
                self.trial_at({"base": name})
            except ValidationError as error:
                raise ValueError(f"space.base: trial and {name} do not fit: {_first_message(error)}") from None
            except InputError as error:
                raise ValueError(f"space.base: {error}") from None

    def _check_ranges(self) -> None:
        for key, written in self.space.items():
            if key not in (*trial_keys(), "base"):
                raise ValueError(f"space.{key}: no such key of a trial")
            if self.search.sampler == "grid" and isinstance(written, FloatRange):
                raise ValueError(
                    f"space.{key}: search.sampler grid cannot take all real numbers from {written.bounds[0]:g} to "
                    f"{written.bounds[1]:g}: write some of them, as in {{choice: [0.1, 0.3]}}"
                )
            for edge in written.edges():
                try:
                    self.trial_at({key: edge})
                except ValidationError as error:
                    # A rule between several keys is a matter of the sampled points, not of one key's bounds.
                    if any(problem["loc"] for problem in error.errors()):
                        raise ValueError(f"space.{key}: {_first_message(error)} (it is {edge!r})") from None

    def _check_points(self) -> None:
        grid = self.search.sampler == "grid"
        # More points than the first that fits, to find a constraint that cannot be computed everywhere.
        admitted = list(islice(self.points(), self.budget.trials if grid else 256))
        for constraint in self.constraints:
            for key in constraint.keys():  # noqa: SIM118 (not a mapping)
                try:
                    self._value_at({}, self.trial, key)
                except ValueError as error:
                    raise ValueError(f"constraints: {constraint.text!r} {error}") from None
        if not admitted:
            shown = "; ".join(constraint.text for constraint in self.constraints) or "the rules between a trial's keys"
            points = "the grid's points" if grid else f"{RANDOM_POINTS} random points of the space"
            raise ValueError(f"constraints: none of {points} meets them ({shown})")
        if grid and len(admitted) < self.budget.trials:
            raise ValueError(f"budget.trials must be at most {len(admitted)}, the points of the grid")
        scores = [name for name in self.objectives if name.endswith("_accuracy")]
        measured = any(self.trial_at(point).judged_on.validation_images for point in admitted)
        if self.space and scores and not measured:
            key = "evaluation.transfer" if self.trial_at(admitted[0]).evaluation.transfer else "data"
            raise ValueError(f"objectives: {scores[0]} is measured on {key}.validation_images, which is 0: set it")

    def points(self) -> Iterator[dict[str, Scalar]]:
        """Points that meet the constraints: all of a grid in its order, else some random ones, the same every time.

        Raises:
            ValueError: for a constraint that cannot be computed.
        """
        return filter(self.admits, self._candidates())

    def _candidates(self) -> Iterator[dict[str, Scalar]]:
        if self.search.sampler == "grid":
            combinations = product(*(self._values(key) for key in self.space))
            return (dict(zip(self.space, combination, strict=True)) for combination in combinations)
        source = random.Random(0)  # noqa: S311 (no secret)
        return ({key: draw(written, source) for key, written in self.space.items()} for _ in range(RANDOM_POINTS))

    def _values(self, key: str) -> Sequence[Scalar]:
        written = self.space[key]
        return written.grid() if isinstance(written, IntRange) else written.edges()

    def trial_at(self, point: Point) -> TrialConfig:
        """The trial of a point: its values over what all trials share, that over the point's recipe.

        Raises:
            pydantic.ValidationError: where they make no valid trial.
            InputError: where there is no such recipe.
        """
        values = dict(point)
        base = values.pop("base", None)
        recipe = read_recipe(str(base)).tree(self.variant) if base is not None else {}
        shared = self.trial.model_dump(exclude_unset=True)
        return TrialConfig.model_validate(lay_trials(recipe, shared, *(branch(*item) for item in values.items())))

    def admits(self, point: Point) -> bool:
        """Whether a point of the space makes a valid trial and meets all constraints.

        Raises:
            ValueError: for a constraint that names a key no trial has, or that cannot be computed.
        """
        try:
            trial = self.trial_at(point)
        except ValidationError:
            return False
        for constraint in self.constraints:
            try:
                if not constraint.holds(lambda key: self._value_at(point, trial, key)):
                    return False
            except ValueError as error:
                raise ValueError(f"constraints: {constraint.text!r} {error}") from None
        return True

    def _value_at(self, point: Point, trial: TrialConfig, key: str) -> Any:
        return point.get("base", self.base) if key == "base" else trial.value_of(key)

    def identity(self) -> dict[str, Any]:
        """What must not change while a study goes on; the budget, the machines, the wording and all places may."""
        tree = self.model_dump(mode="json", include=IDENTITY)
        return {**tree, "trial": without_paths(tree["trial"])}


def constant_of(written: Range) -> Scalar:
    """The value of a constant; None of a range."""
    return written.value if isinstance(written, Constant) else None


def dump_point(point: Mapping[str, Scalar]) -> str:
    """A point as a space file writes it."""
    return f"{{{', '.join(f'{key}: {value}' for key, value in point.items())}}}"


def draw(written: Range, source: random.Random) -> Scalar:
    """One value of a range, at random; evenly, on the range's scale."""
    match written:
        case IntRange(bounds=(low, high), log=True):
            return min(max(round(math.exp(source.uniform(math.log(low - 0.5), math.log(high + 0.5)))), low), high)
        case IntRange(bounds=(low, high), step=step):
            return source.randrange(low, high + 1, step)
        case FloatRange(bounds=(low, high), log=True):
            return min(max(math.exp(source.uniform(math.log(low), math.log(high))), low), high)
        case FloatRange(bounds=(low, high)):
            return source.uniform(low, high)
        case Choice(values=values):
            return source.choice(values)
        case Constant(value=value):
            return value


def _first_message(error: ValidationError) -> str:
    return error.errors()[0]["msg"].removeprefix("Value error, ")
