"""The points that a study may try: random draws, the order of a grid, and the constraints."""

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import count, islice, product, takewhile

from pydantic import ValidationError

from cfamc_ray.config.active_keys import active_part
from cfamc_ray.config.errors import InputError
from cfamc_ray.config.radii import check_radii
from cfamc_ray.config.ranges import Choice, Constant, FloatRange, IntRange, Range, dump_range
from cfamc_ray.config.recipes import read_recipe
from cfamc_ray.config.stages import trunk_of, trunk_part, without_trunk
from cfamc_ray.config.study import Point, StudyConfig
from cfamc_ray.config.trial import TrialConfig
from cfamc_ray.config.types import Scalar

RANDOM_POINTS = 4096
"""Number of points to draw to see whether the constraints can be met."""
SAMPLE = 256
"""Number of points of a sample of the space."""


class SearchSpace:
    """The points that a study may try: values of its searched keys that give a valid trial and meet its constraints.

    Args:
        config: config of the study.
    """

    def __init__(self, config: StudyConfig) -> None:
        self.config = config
        self.ranges: Mapping[str, Range] = config.space
        self.is_grid, self.is_listed = config.search.sampler.exhaustive, config.search.sampler.listed
        self._grid: list[dict[str, Scalar]] = []
        self._rest_of_grid = self.points()

    def check(self) -> None:
        """Refuse a space in which the study cannot run; unlike the schema, this checks points.

        Raises:
            ValueError: if no point meets the constraints, a constraint cannot be computed, a grid has fewer points than
                `budget.trials`, a point of `start_from` is outside the space, workers cannot share minibatches, no
                trial measures an objective, or a radius is one of another norm; the message begins with the key.
        """
        # Check more than one point, to find a constraint that cannot be computed for all points.
        searched = not all(isinstance(written, Constant) for written in self.ranges.values())
        number = self.config.budget.trials if self.is_grid else SAMPLE if searched else 1
        trials = list(islice(self._trials(), number))
        self._check_number(len(trials))
        self._check_measured(trials)
        for trial in trials:
            check_radii(trial)
        _ = self.first_points  # refuses points that do not fit
        self._check_workers(trials)

    def _check_number(self, admitted: int) -> None:
        if not admitted:
            shown = "; ".join(constraint.text for constraint in self.config.constraints)
            points = f"{self._points_of}'s points" if self.is_grid else f"{RANDOM_POINTS} random points of the space"
            shown = shown or "the rules between a trial's keys"
            raise ValueError(f"constraints: none of {points} meets them ({shown})")
        if self.is_grid and admitted < self.config.budget.trials:
            raise ValueError(f"budget.trials must be at most {admitted}, the points of {self._points_of}")

    @property
    def _points_of(self) -> str:
        return "start_from" if self.is_listed else "the grid"

    def _check_measured(self, trials: Sequence[TrialConfig]) -> None:
        scores = [name for name in self.config.objectives if name.endswith("_accuracy")]
        if self.ranges and scores and not any(trial.judged_on.validation_images for trial in trials):
            key = "evaluation.transfer" if trials[0].evaluation.transfer else "data"
            raise ValueError(f"objectives: {scores[0]} is measured on {key}.validation_images, which is 0: set it")

    def _check_workers(self, trials: Sequence[TrialConfig]) -> None:
        workers, batch = self.config.resources.workers_per_trial, "pretraining.batch_images"
        if workers == 1:
            return
        sizes = [trial.pretraining.batch_images for trial in trials]
        for size in self.values(batch) if batch in self.ranges else sizes:
            if not isinstance(size, int) or size % workers:
                raise ValueError(f"{batch} {size} cannot be shared evenly by resources.workers_per_trial {workers}")
        for trial in trials:
            trial.check_share(workers, gpus=self.config.resources.gpus_per_worker > 0)

    def points(self) -> Iterator[dict[str, Scalar]]:
        """Points that meet the constraints: all points of a grid in order, or random points that are always the same.

        Raises:
            ValueError: for a constraint that cannot be computed.
        """
        return filter(self.admits, self._candidates())

    def _trials(self) -> Iterator[TrialConfig]:
        """The trials of `points`."""
        return filter(None, map(self.trial_if_admitted, self._candidates()))

    def _candidates(self) -> Iterator[dict[str, Scalar]]:
        if self.is_listed:
            yield from self.first_points
        elif self.is_grid:
            combinations = product(*(self.values(key) for key in self.ranges))
            points = (dict(zip(self.ranges, combination, strict=True)) for combination in combinations)
            yield from filter(self._is_first_of_equals, points)
        else:
            source = random.Random(0)  # noqa: S311 (no secret)
            yield from (self.draw(source) for _ in range(RANDOM_POINTS))

    def values(self, key: str) -> Sequence[Scalar]:
        """All values of a searched whole number or choice; the bounds of a real number."""
        written = self.ranges[key]
        return written.grid() if isinstance(written, IntRange) else written.edges()

    def _is_first_of_equals(self, point: Point) -> bool:
        """Whether no earlier point of the grid gives the same trial: ignored keys have their first values."""
        return all(point[key] == self.values(key)[0] for key in point.keys() - self.active(point).keys())

    def draw(self, source: random.Random) -> dict[str, Scalar]:
        """Draw a random point, which may violate the constraints."""
        return {key: draw(written, source) for key, written in self.ranges.items()}

    def grid_from(self, number: int) -> Iterator[dict[str, Scalar]]:
        """All points of the grid once, in order, from that of an index on; the index is taken modulo their number."""
        first = number if self._grid_reaches(number) else number % max(len(self._grid), 1)
        for index in takewhile(self._grid_reaches, count(first)):
            yield self._grid[index]
        yield from self._grid[:first]

    def _grid_reaches(self, index: int) -> bool:
        """Whether the grid has a point at an index; its points are computed only so far."""
        self._grid += islice(self._rest_of_grid, max(index + 1 - len(self._grid), 0))
        return index < len(self._grid)

    def sample_trials(self, number: int = SAMPLE) -> list[TrialConfig]:
        """A sample of the study's trials: those of a grid, or trials at random points.

        Args:
            number: number of random points.
        """
        count = self.config.budget.trials if self.is_grid else number
        return list(islice(self._trials(), count))

    @property
    def first_trial(self) -> TrialConfig:
        """A trial of the space, for properties that all its trials share."""
        return next(self._trials())

    @cached_property
    def first_points(self) -> list[dict[str, Scalar]]:
        """The points of `start_from`, with the keys of the space in its order.

        Raises:
            ValueError: if a point does not fit the space.
        """
        return [self._first_point(written) for written in self.config.start_from]

    def _first_point(self, written: str | Mapping[str, Scalar]) -> dict[str, Scalar]:
        if isinstance(written, str):
            name = written
            try:
                recipe = read_recipe(written).trial(self.config.variant)
            except InputError as error:
                raise ValueError(f"start_from: {error}") from None
            point = {key: written if key == "base" else recipe.value_of(key) for key in self.ranges}
        else:
            name = dump_point(written)
            unknown = sorted(set(without_trunk(written)) - set(self.ranges))
            if unknown:
                raise ValueError(f"start_from: {name}: {unknown[0]} is not a key of space: {', '.join(self.ranges)}")
            point = {key: written.get(key, constant_of(self.ranges[key])) for key in self.ranges}
            point |= trunk_part(written)
        ignored = point.keys() - self.active(point).keys()
        point |= {key: self.ranges[key].edges()[0] for key in ignored if point[key] is None}
        for key, value in without_trunk(point).items():
            if not self.ranges[key].contains(value):
                raise ValueError(
                    f"start_from: {name} has {key} {value!r}, which is not in space.{key} "
                    f"{dump_range(self.ranges[key])}: widen the range, or write another point as {{key: value, …}}"
                )
        if not self.admits(point):
            raise ValueError(f"start_from: {name} does not meet the constraints, or gives no valid trial: {point}")
        return point

    def admits(self, point: Point) -> bool:
        """Whether a point gives a valid trial and meets all constraints; errors as in `trial_if_admitted`."""
        return self.trial_if_admitted(point) is not None

    def trial_if_admitted(self, point: Point) -> TrialConfig | None:
        """The trial of a point; None if it is not valid, or violates a constraint.

        Raises:
            ValueError: if a constraint names a key that no trial has, or cannot be computed.
        """
        try:
            trial = self.config.trial_at(point)
        except ValidationError:
            return None
        for constraint in self.config.constraints:
            try:
                if not constraint.holds(lambda key: self.config.value_at(point, trial, key)):
                    return None
            except ValueError as error:
                raise ValueError(f"constraints: {constraint.text!r} {error}") from None
        return trial

    def contains(self, point: Point) -> bool:
        """Whether a point has exactly the keys of the space, values in their ranges, and meets the constraints.

        So must the trunk of a fork.
        """
        stages = (without_trunk(point), trunk_of(point))
        return (
            all(set(stage) == set(self.ranges) for stage in stages)
            and all(self.ranges[key].contains(value) for stage in stages for key, value in stage.items())
            and self.admits(point)
        )

    def active(self, point: Point) -> dict[str, Scalar]:
        """The part of a point that determines its trial, without keys that its components do not have."""
        return active_part(TrialConfig, point, self.config.tree_at)

    def identity(self, point: Point) -> frozenset[tuple[str, Scalar]]:
        """A value that is equal for points that give the same trial."""
        return frozenset(self.active(point).items())


def constant_of(written: Range) -> Scalar:
    """The value of a constant; None for a range."""
    return written.value if isinstance(written, Constant) else None


def dump_point(point: Point) -> str:
    """A point as written in a space file."""
    return f"{{{', '.join(f'{key}: {value}' for key, value in point.items())}}}"


def draw(written: Range, source: random.Random) -> Scalar:
    """Draw a random value of a range, uniformly on its scale."""
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


def move(written: Range, value: Scalar, source: random.Random, *, spread: float) -> Scalar:
    """Draw a value near another one.

    Args:
        written: range of the key.
        value: value that is moved.
        source: random generator.
        spread: standard deviation of the change, as a fraction of the range on its scale; also the probability that a
            choice, which has no distances, is drawn again.
    """
    match written:
        case IntRange(bounds=(low, high), log=log) | FloatRange(bounds=(low, high), log=log):
            assert isinstance(value, int | float)
            scale, back = (math.log, math.exp) if log else (float, float)
            step = spread * (scale(high) - scale(low)) * source.gauss()
            moved = min(max(back(scale(value) + step), low), high)
            if isinstance(written, FloatRange):
                return moved
            return min(max(low + written.step * round((moved - low) / written.step), low), written.last)
        case Choice():
            return draw(written, source) if source.random() < spread else value
        case Constant():
            return value
