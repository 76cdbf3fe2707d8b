"""The answer of a study to its question, in sentences with numbers."""

import math
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
from cfamc_ray.front.effects import Effect
from cfamc_ray.front.front import find_front
from cfamc_ray.front.growth import Growth
from cfamc_ray.front.recommendations import Advice, headline
from cfamc_ray.metrics import find_metric
from cfamc_ray.store.records import TrialRecord
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
    confirmed: Sequence[Confirmed] = (),
) -> list[str]:
    """What to run, what it costs, which keys matter, and how certain that is.

    Args:
        config: of the study.
        records: of its trials.
        advice: of `advise`.
        effects: of `find_effects`.
        growth: of `find_growth`.
        confirmed: the points of confirm.csv.
    """
    front = find_front(config, records)
    finished = sum(record.status == "finished" for record in records)
    if not front.members:
        missing = "no trial has finished" if not finished else "no finished trial has all objectives"
        return [f"There is no answer yet: {missing}."]
    are = "is" if len(front.members) == 1 else "are"
    return [
        *_progress(config, records),
        f"{len(front.members)} of {finished} finished trials {are} on the front.",
        *(_recommendation(config, one) for one in advice if one.objective),
        *_movers(config, effects),
        *_late_growth(growth),
        *_certainty(config, advice, confirmed),
    ]


def _progress(config: StudyConfig, records: Sequence[TrialRecord]) -> list[str]:
    ended = sum(record.ended and record.counts for record in records)
    running = sum(not record.ended for record in records)
    left = config.budget.trials - ended
    if not running or left <= 0:
        return []
    total = config.budget.trials
    return [f"The study has not ended: {left} of {total} trials are still to come, and what follows may change."]


def _recommendation(config: StudyConfig, advice: Advice) -> str:
    record = advice.record
    values = [format_metric(name, record.value(name)) for name in with_cost(config.objectives)]
    return f"{advice.role.capitalize()}: trial {record.number}, with {', '.join(values)}."


def _movers(config: StudyConfig, effects: Sequence[Effect]) -> list[str]:
    """For each result the keys whose trend is significant, the strongest first."""
    sentences = []
    for metric in (name for name in config.objectives if find_metric(name).role == "result"):
        mine = [effect for effect in effects if effect.metric == metric and math.isfinite(effect.slope)]
        significant = sorted((e for e in mine if e.significant), key=lambda e: -abs(e.slope))
        words = [
            f"{e.key} ({format_change(metric, e.slope)} from "
            f"{' to '.join(format_setting(e.key, end) for end in e.ends)}, "
            f"95 % interval {format_interval(metric, e.interval)})"
            for e in significant
        ]
        name = find_metric(metric).label
        if words:
            sentences.append(f"What moves {name}, the other keys held: {'; '.join(words)}.")
        elif mine:
            sentences.append(f"No key's effect on {name} is significant in these trials.")
    return sentences


def _late_growth(growth: Growth) -> list[str]:
    """How much hypervolume the last quarter of the crop passes added."""
    if len(growth.trials) < 4 or growth.hypervolume[-1] <= 0:
        return []
    spent = growth.crop_passes[-1]
    before = [v for v, passes in zip(growth.hypervolume, growth.crop_passes, strict=True) if passes <= 0.75 * spent]
    share = 1 - (before[-1] if before else 0.0) / growth.hypervolume[-1]
    return [f"The last quarter of the {format_count(spent)} crop passes added {share:.1%} of the hypervolume."]


def _certainty(config: StudyConfig, advice: Sequence[Advice], confirmed: Sequence[Confirmed]) -> list[str]:
    if confirmed:
        likely = sum(one.front_probability >= LIKELY for one in confirmed)
        seeds = min(one.seeds for one in confirmed)
        return [
            f"Trained again with {seeds} fresh seeds and tested on test images, {likely} of {len(confirmed)} points "
            f"belong to the front with a probability of at least {100 * LIKELY:.0f} %."
        ]
    metric = headline(config)
    (best,) = [one.record for one in advice if one.objective == metric]
    column = find_metric(metric).images
    images = best.rows[-1].get(column) if column else None
    if not images:
        return []
    share = best.value(metric)
    half = 1.96 * math.sqrt(share * (1 - share) / images)
    return [
        f"Each point was measured once, with one seed: {format_value(metric, share)} on {images} images is uncertain "
        f"by ±{100 * half:.1f} points from the images alone, and the best of many is optimistic (winner's curse). "
        "The key confirm of a space trains the front again with fresh seeds."
    ]
