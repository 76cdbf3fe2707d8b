"""The answer of a study to its question, in sentences with numbers."""

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from cfamc_ray.config.study import StudyConfig
from cfamc_ray.formatting import (
    format_change,
    format_count,
    format_interval,
    format_metric,
    format_setting,
    format_value,
)
from cfamc_ray.front.changes import Changes
from cfamc_ray.front.curves import Curves
from cfamc_ray.front.effects import Effect
from cfamc_ray.front.expectation import as_measured
from cfamc_ray.front.front import count_of, find_front, name_of
from cfamc_ray.front.growth import Growth
from cfamc_ray.front.recommendations import Advice, headline
from cfamc_ray.front.uncertainty import interval_of
from cfamc_ray.metrics import find_metric
from cfamc_ray.store.layout import number_of
from cfamc_ray.store.records import TrialRecord
from cfamc_ray.store.tables import L2
from cfamc_ray.store.trial_tables import with_cost

LIKELY = 0.8
"""Probability from which a point counts as one of the front."""


class Confirmed(NamedTuple):
    """A point that was trained again with fresh seeds."""

    seeds: int
    front_probability: float


def answer(
    config: StudyConfig,
    records: Sequence[TrialRecord],
    *,
    advice: Sequence[Advice],
    effects: Sequence[Effect],
    growth: Growth,
    curves: Curves | None = None,
    groups: Sequence[Sequence[TrialRecord]] = (),
    confirmed: Sequence[Confirmed] = (),
    changes: Changes | None = None,
) -> list[str]:
    """What to run, what it costs, which keys matter, and how certain that is.

    Args:
        config: of the study.
        records: of its trials.
        advice: of `advise`, by expected values.
        effects: of `find_effects`.
        growth: of `find_growth`.
        curves: of `find_curves`.
        groups: of `noise_groups`.
        confirmed: the points of confirm.csv.
        changes: since the study was resumed; None: it was not.
    """
    front = find_front(config, records)
    if not front.members:
        missing = "no trial has finished" if not front.finished else "no finished trial has all objectives"
        return [f"There is no answer yet: {missing}."]
    return [
        *_progress(config, records),
        f"{front.sentence}.",
        *_changes(changes),
        *_noise(groups),
        *_recommendations(config, records, advice),
        *_head_and_training(curves),
        *_movers(config, effects),
        *_families(records),
        *_late_growth(growth),
        *_certainty(config, records, advice, confirmed),
    ]


def _progress(config: StudyConfig, records: Sequence[TrialRecord]) -> list[str]:
    ended = sum(record.ended and record.counts for record in records)
    running = sum(not record.ended for record in records)
    left = config.budget.trials - ended
    if not running or left <= 0:
        return []
    total = config.budget.trials
    return [f"The study has not ended: {left} of {total} trials are still to come, and what follows may change."]


def _changes(changes: Changes | None) -> list[str]:
    """What the trials of the last run changed."""
    if changes is None or not changes.trials:
        return []
    before, after = changes.hypervolume
    words = [f"the hypervolume went from {before:.4g} to {after:.4g}"]
    if changes.joined:
        words.append(f"new on the front: {_names(changes.joined)}")
    if changes.left:
        words.append(f"no longer on it: {_names(changes.left)}")
    trials = "1 trial has" if changes.trials == 1 else f"{changes.trials} trials have"
    return [f"Since the study was last resumed, {trials} ended; {'; '.join(words)}."]


def _names(records: Sequence[TrialRecord]) -> str:
    return ", ".join(map(name_of, records))


def _recommendations(config: StudyConfig, records: Sequence[TrialRecord], advice: Sequence[Advice]) -> list[str]:
    """The best in each objective."""
    return [
        f"{one.role.capitalize()}: {name_of(one.record)}, with {described(config, records, one.record)}."
        for one in advice
        if one.objective
    ]


def described(config: StudyConfig, records: Sequence[TrialRecord], point: TrialRecord) -> str:
    """Measured objectives and cost of an `expected` point in words, with what is expected where that differs."""
    measured, words = as_measured(records, point), []
    for name in with_cost(config.objectives):
        written, expected = (format_value(name, each.value(name)) for each in (measured, point))
        differs = f" (expected {expected})" if expected != written else ""
        words.append(format_metric(name, measured.value(name)) + differs)
    return ", ".join(words)


def _noise(groups: Sequence[Sequence[TrialRecord]]) -> list[str]:
    """Which points of the front the number of images cannot tell apart."""
    points = sum(map(len, groups))
    if points == len(groups):
        return []
    those = "any two" if len(groups) == 1 else f"those of the same noise group ({len(groups)} groups)"
    return [
        f"Of {points} points on the front, noise cannot tell apart {those}: in no objective are their 95 % intervals "
        "disjoint. As all points are measured on the same images, this is conservative."
    ]


def _head_and_training(curves: Curves | None) -> list[str]:
    """How much of the front's spread is due to the head's L2 strength, and how much to training."""
    if curves is None:
        return []
    sentences = [
        f"Choosing the probe's L2 strength moves {find_metric(name).label} by {_points(spread.head)} within a trial "
        f"(median); all searched keys together move it by {_points(spread.training)} between trials at the same "
        "strength (median)."
        for name, spread in curves.spreads.items()
    ]
    if math.isfinite(curves.gain):
        sentences.append(
            f"The hypervolume of all operating points is {curves.gain:.2f} times that of the best single strength "
            f"(L2 {format_setting(L2, curves.best_l2)}) for all trials."
        )
    return sentences


def _points(share: float) -> str:
    return f"{100 * share:.1f} points"


def _movers(config: StudyConfig, effects: Sequence[Effect]) -> list[str]:
    """For each result the keys whose trend is significant, the strongest first."""
    sentences = []
    for metric in (name for name in config.objectives if find_metric(name).role == "result"):
        mine = [effect for effect in effects if effect.metric == metric and math.isfinite(effect.slope)]
        significant = sorted((e for e in mine if e.significant), key=lambda e: -abs(e.slope))
        words = [
            f"{e.key} ({format_change(metric, e.slope)} from "
            f"{' to '.join(format_setting(e.key, end, e.norms) for end in e.ends)}, "
            f"95 % interval {format_interval(metric, e.interval)})"
            for e in significant
        ]
        name = find_metric(metric).label
        if words:
            sentences.append(f"What moves {name}, the other keys held: {'; '.join(words)}.")
        elif mine:
            sentences.append(f"No key's effect on {name} is significant in these trials.")
    return sentences


def _families(records: Sequence[TrialRecord]) -> list[str]:
    """Which trials began with the epochs of which others, and what that spared."""
    forks: dict[str, list[str]] = defaultdict(list)
    for record in records:
        if record.trunk:
            forks[record.trunk].append(str(record.number))
    if not forks:
        return []
    tree = "; ".join(f"of trial {number_of(trunk)}: {', '.join(numbers)}" for trunk, numbers in sorted(forks.items()))
    ran = [record for record in records if record.rows and not record.source]
    paid, apart = sum(r.paid("crop_passes") for r in ran), sum(r.value("crop_passes") for r in ran)
    return [
        f"{sum(map(len, forks.values()))} trials are forks, which began with the first epochs of another trial "
        f"({tree}). That spared {1 - paid / apart:.0%} of the crop passes that these trials would have taken apart."
    ]


def _late_growth(growth: Growth) -> list[str]:
    """How much hypervolume the last quarter of the crop passes added."""
    if len(growth.trials) < 4 or growth.hypervolume[-1] <= 0:
        return []
    spent = growth.crop_passes[-1]
    before = [v for v, passes in zip(growth.hypervolume, growth.crop_passes, strict=True) if passes <= 0.75 * spent]
    share = 1 - (before[-1] if before else growth.before) / growth.hypervolume[-1]
    return [f"The last quarter of the {format_count(spent)} crop passes added {share:.1%} of the hypervolume."]


def _confirmed(confirmed: Sequence[Confirmed]) -> list[str]:
    """How many points are on the front whatever the seed; one seed alone says nothing of that."""
    judged = [one for one in confirmed if one.seeds > 1]
    others = len(confirmed) - len(judged)
    sentences = []
    if judged:
        likely = sum(one.front_probability >= LIKELY for one in judged)
        fewest, most = min(one.seeds for one in judged), max(one.seeds for one in judged)
        seeds = f"{fewest}" if fewest == most else f"{fewest} to {most}"
        sentences.append(
            f"Trained again with {seeds} fresh seeds and tested on test images, {likely} of {len(judged)} points "
            f"belong to the front with a probability of at least {100 * LIKELY:.0f} %."
        )
    if others:
        sentences.append(
            f"{count_of(others, 'point')} of the confirmation {'has' if others == 1 else 'have'} fewer than 2 tested "
            "seeds, which do not tell how much is chance."
        )
    return sentences


def _certainty(
    config: StudyConfig, records: Sequence[TrialRecord], advice: Sequence[Advice], confirmed: Sequence[Confirmed]
) -> list[str]:
    if confirmed:
        return _confirmed(confirmed)
    metric = headline(config)
    (best,) = [as_measured(records, one.record) for one in advice if one.objective == metric]
    column = find_metric(metric).images
    images = best.rows[-1].get(column) if column else None
    if not images:
        return []
    value, low, high = (format_value(metric, each) for each in (best.value(metric), *interval_of(best, metric)))
    return [
        f"Each trial was trained once, with one seed: {value} on {images} images has a 95 % interval of {low} to "
        f"{high} from the images alone, and the best of many is optimistic (winner's curse). The key confirm of a "
        "space trains the front again with fresh seeds."
    ]
