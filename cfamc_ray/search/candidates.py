"""The untried points among which a sampler with a model chooses: points of the space, and forks of trials.

Where no objective is a cost, random points are trained for as many epochs as the constraints admit, and are those that
cost most: more training seldom makes an encoder worse. A cheaper point is then proposed only where it is near the
front, and the model expects more of it.
"""

import math
import random
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from cfamc_ray.config.search import FrontConfig
from cfamc_ray.config.stages import fork_of, trunk_epochs, without_trunk
from cfamc_ray.config.study import Point, StudyConfig
from cfamc_ray.config.trial import TrialConfig
from cfamc_ray.front.front import find_front
from cfamc_ray.metrics import find_metric
from cfamc_ray.space.search_space import SearchSpace, draw, move
from cfamc_ray.store.records import TrialRecord

EPOCHS = "pretraining.epochs"
CANDIDATES = FrontConfig.attempts
FORKS = CANDIDATES // 2
SPREADS = (0.01, 0.2)
"""Smallest and largest distance of points near the front, as a fraction of the keys' ranges."""
ATTEMPTS = 4
"""Largest number of draws for a candidate; some repeat, some do not meet the constraints."""
COSTLY = 1 / 4
"""Fraction of random points, those with most crop passes, that are candidates where no objective is a cost."""


def random_points(space: SearchSpace, records: Sequence[TrialRecord], *, seed: int) -> list[Point]:
    """Random points that meet the constraints; where no objective is a cost, those with most crop passes.

    Args:
        space: search space of the study.
        records: records of the trials so far.
        seed: seed of the random numbers.
    """
    source = random.Random(seed)  # noqa: S311 (no secret)
    free = not any(find_metric(name).role == "cost" for name in space.config.objectives)
    drawn: Iterator[Point] = (space.draw(source) for _ in range(ATTEMPTS * CANDIDATES))
    longest = (longest_training(space, point) for point in drawn) if free else drawn
    found = _untried(space, [record.point for record in records], longest, CANDIDATES)
    if free:
        found.sort(key=lambda each: -each[1].crop_passes)
        found = found[: math.ceil(COSTLY * len(found))]
    return [point for point, _ in found]


def longest_training(space: SearchSpace, point: Point) -> Point:
    """An admitted point with as many epochs as the constraints admit; any other as it is."""
    values: Sequence[Any] = space.values(EPOCHS) if EPOCHS in space.ranges else ()
    more = sorted(value for value in values if value > point[EPOCHS])
    if not more or not space.admits(point):
        return point
    admitted = bisect_left(more, True, key=lambda value: not space.admits({**point, EPOCHS: value}))
    return {**point, EPOCHS: more[admitted - 1]} if admitted else point


def points_to_try(space: SearchSpace, records: Sequence[TrialRecord], *, seed: int) -> list[Point]:
    """Random points, points of the front with one key drawn again, and points near the front; all meet the constraints.

    Arguments as in `random_points`.
    """
    source = random.Random(seed)  # noqa: S311 (no secret)
    ranges, front = space.ranges, [without_trunk(record.point) for record in _front(space.config, records)]
    anywhere = random_points(space, records, seed=seed)[: CANDIDATES // 3]

    def draws() -> Iterator[Point]:
        for attempt in range(ATTEMPTS * CANDIDATES if front else 0):
            if attempt % 2:
                key = source.choice(list(ranges))
                yield {**source.choice(front), key: draw(ranges[key], source)}
            else:
                yield near(space, front, source)

    known = [*(record.point for record in records), *anywhere]
    return [*anywhere, *(point for point, _ in _untried(space, known, draws(), CANDIDATES - len(anywhere)))]


def near(space: SearchSpace, points: Sequence[Point], source: random.Random) -> dict[str, Any]:
    """A random point near one of some points, which may violate the constraints."""
    spread = math.exp(source.uniform(*map(math.log, SPREADS)))
    point = source.choice(points)
    return {key: move(written, point[key], source, spread=spread) for key, written in space.ranges.items()}


def forks_to_try(space: SearchSpace, records: Sequence[TrialRecord], *, seed: int) -> list[Point]:
    """Forks of trials on the front, with some of their keys drawn again; arguments as in `points_to_try`."""
    fork = space.config.search.fork
    if fork is None:
        return []
    trunks = [
        (record.point, epochs)
        for record in _front(space.config, records)
        for epochs in fork.epochs_of(space.config.trial_at(record.point))
    ]
    source = random.Random(seed + 1)  # noqa: S311 (no secret)

    def draws() -> Iterator[Point]:
        for _ in range(ATTEMPTS * FORKS if trunks else 0):
            trunk, epochs = source.choice(trunks)
            keys = source.sample(fork.change, source.randint(1, len(fork.change)))
            changes = {key: draw(space.ranges[key], source) for key in keys}
            if changes := {key: value for key, value in changes.items() if value != trunk[key]}:
                yield fork_of(trunk, changes, epochs)

    return [point for point, _ in _untried(space, [record.point for record in records], draws(), FORKS)]


def own_passes(config: StudyConfig, point: Point) -> int:
    """Crop passes of a trial without those of its trunk."""
    return config.trial_at(point).crop_passes_after(trunk_epochs(point))


def _front(config: StudyConfig, records: Sequence[TrialRecord]) -> list[TrialRecord]:
    """One record for each trial on the front."""
    return list({record.number: record for record in find_front(config, records).members}.values())


def _untried(
    space: SearchSpace, known: Iterable[Point], draws: Iterator[Point], number: int
) -> list[tuple[Point, TrialConfig]]:
    """The first new points of some draws that meet the constraints, and their trials."""
    seen = {space.identity(point) for point in known}
    found: list[tuple[Point, TrialConfig]] = []
    for point in draws:
        identity = space.identity(point)
        if identity not in seen and (trial := space.trial_if_admitted(point)):
            found.append((point, trial))
            seen.add(identity)
        if len(found) == number:
            break
    return found
