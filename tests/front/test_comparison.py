import math
import random

import pytest
from made_by_hand import curve, record, study

from cfamc_ray.config.errors import InputError
from cfamc_ray.config.study import StudyConfig
from cfamc_ray.front.comparison import _resampled, compare_studies
from cfamc_ray.store.records import TrialRecord


def trials(level: float, number: int = 30, seed: int = 0) -> list[TrialRecord]:
    """Accuracies that spread by 0.05 around a level."""
    source = random.Random(seed)  # noqa: S311
    return [
        record(n, clean_accuracy=source.gauss(level, 0.05), robust_accuracy=source.gauss(level, 0.05))
        for n in range(number)
    ]


def named(name: str) -> StudyConfig:
    return study(name=name)


def test_a_front_beyond_another_gains_and_that_is_decided() -> None:
    first, second = compare_studies([(named("low"), trials(0.3)), (named("high"), trials(0.6, seed=1))])
    assert (first.name, second.name) == ("low", "high")
    assert second.gain == pytest.approx(second.front.hypervolume - first.front.hypervolume)
    assert 0 < second.interval[0] < second.gain < second.interval[1]
    assert second.significant
    assert second.crop_passes == 3000


def test_a_study_gains_nothing_over_itself_and_noise_decides_nothing() -> None:
    first, same, similar = compare_studies(
        [(named("a"), trials(0.3)), (named("a"), trials(0.3)), (named("b"), trials(0.3, seed=2))]
    )
    assert (first.gain, same.gain) == (0, 0)
    assert not first.significant
    assert not same.significant
    assert similar.interval[0] < 0 < similar.interval[1]


def test_the_reference_is_the_worst_of_all_where_none_is_given() -> None:
    objectives = {"clean_accuracy": "maximize", "flops": "minimize"}
    config = study(objectives=objectives)
    cheap = [record(n, clean_accuracy=0.1 * n, flops=10 + n) for n in range(1, 4)]
    dear = [record(n, clean_accuracy=0.1 * n, flops=20 + n) for n in range(1, 4)]
    first, second = compare_studies([(config, cheap), (config, dear)])
    assert first.front.reference == second.front.reference == [0.0, 23.0]
    assert second.gain < 0


def test_a_study_without_a_finished_trial_has_no_hypervolume() -> None:
    empty, full = compare_studies([(named("empty"), []), (named("full"), trials(0.5))])
    assert empty.front.hypervolume == 0
    assert full.gain == full.front.hypervolume > 0


def test_other_objectives_are_refused() -> None:
    with pytest.raises(InputError, match=r"other: its objectives are .*only equal ones can be compared"):
        compare_studies([(named("a"), []), (study(name="other", objectives={"flops": "minimize"}), [])])


def test_a_trial_is_resampled_with_all_its_operating_points() -> None:
    trials = [curve(0, (0.01, 0.8, 0.1), (0.1, 0.4, 0.4)), curve(1, (0.01, 0.3, 0.3), (0.1, 0.2, 0.35))]
    volumes = _resampled(compare_studies([(named("a"), trials)])[0].front, 200, (0, 0))
    whole, one, other = 0.4 * 0.4 + 0.4 * 0.1, 0.4 * 0.4 + 0.4 * 0.1, 0.3 * 0.3 + 0.2 * 0.05
    assert sorted(set(volumes.round(9))) == pytest.approx(sorted({whole, one, other})), "never half a trial"


def test_the_order_of_the_objectives_changes_nothing() -> None:
    some = [record(n, clean_accuracy=0.1 * n, flops=10 + n) for n in range(1, 9)]
    one = study(name="one", objectives={"clean_accuracy": "maximize", "flops": "minimize"})
    other = study(name="other", objectives={"flops": "minimize", "clean_accuracy": "maximize"})
    for first, second in (compare_studies([(one, some), (other, some)]), compare_studies([(other, some), (one, some)])):
        assert first.front.hypervolume == second.front.hypervolume > 0
        assert list(first.front.objectives) == list(second.front.objectives)
        assert second.gain == 0


@pytest.mark.parametrize("few", [0, 1, 4])
def test_too_few_trials_decide_nothing(few: int) -> None:
    better = [record(n, clean_accuracy=0.5, robust_accuracy=0.26) for n in range(few)]
    many = [record(n, clean_accuracy=0.5, robust_accuracy=0.25) for n in range(9)]
    for first, second in ((better, many), (many, better)):
        comparison = compare_studies([(named("a"), first), (named("b"), second)])[1]
        assert all(map(math.isnan, comparison.interval))
        assert not comparison.significant
