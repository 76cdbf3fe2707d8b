"""The surrogate of recorded trials, and the race of searches on it."""

import math
from pathlib import Path

import numpy as np
import pytest

from benchmarks import race as racing
from benchmarks.race import Truth, common_passes, mean_share, passes_to, race, ratio_interval, record_of, table
from benchmarks.recorded import append
from benchmarks.sobol_table import cells, sobol_study
from benchmarks.surrogate import Recorded, Surrogate, check, read_recorded, seed_covariance
from cfamc_ray.config.study import Point
from cfamc_ray.space.encoding import encode

STRENGTHS = [0.01, 0.1]
NOISE = 0.01
STUDY = sobol_study(8)


def true_curve(point: Point) -> np.ndarray:
    """Clean accuracy falls and robust accuracy rises with the radius; so they do with the strength."""
    radius = encode(STUDY.space, point)[3]
    return np.array([[0.45 - 0.1 * radius, 0.1 + 0.2 * radius], [0.43 - 0.1 * radius, 0.12 + 0.2 * radius]])


def recorded(points: int, *, noise: float = NOISE) -> Recorded:
    source = np.random.default_rng(0)
    chosen = [point for seed, point in cells(STUDY, points=points, seeds=1, at_cap=0.0)]
    measured = [true_curve(point).T.ravel() + noise * source.standard_normal((2, 4)) for point in chosen]
    return Recorded(chosen, STRENGTHS, measured)


@pytest.fixture(scope="module")
def truth() -> Truth:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(racing, "read_recorded", lambda _: recorded(40))
        patch.setattr(racing, "DRAWN", 512)
        return Truth(8, 0.3)


def test_trials_of_a_point_are_read_together_and_only_those_of_the_width(tmp_path: Path) -> None:
    file, point = tmp_path / "table.jsonl.gz", {"crops.views": 2}
    for width, seed in ((8, 0), (16, 0), (8, 1)):
        curve = [{"l2": l2, "clean_accuracy": 0.4 + seed / 10, "robust_accuracy": l2} for l2 in STRENGTHS]
        append(file, {"width": width, "seed": seed, "point": point, "rows": [{"operating_points": curve}]})
    found = read_recorded(8, file)
    assert (found.points, found.strengths) == ([point], STRENGTHS)
    assert found.measured[0].tolist() == [[0.4, 0.4, 0.01, 0.1], [0.5, 0.5, 0.01, 0.1]]


def test_the_surrogate_finds_the_truth_behind_the_noise() -> None:
    model, new = Surrogate(STUDY, recorded(60)), recorded(90).points[60:]
    error = model.truth(new) - np.array([true_curve(point) for point in new])
    assert np.sqrt(np.mean(error**2)) < NOISE / 2


def test_measured_values_have_the_covariance_of_the_seeds() -> None:
    model, source = Surrogate(STUDY, recorded(40)), np.random.default_rng(1)
    point = recorded(1).points[0]
    drawn = np.array([model.measured(point, source).T.ravel() for _ in range(4000)])
    assert np.cov(drawn.T) == pytest.approx(model.noise_KK, abs=0.1 * NOISE**2)
    assert drawn.mean(0) == pytest.approx(model.truth([point])[0].T.ravel(), abs=NOISE / 10)


def test_the_covariance_of_seeds_is_pooled_over_points() -> None:
    rows = [np.array([[0.0, 0.0], [2.0, 0.0]]), np.array([[5.0, 1.0], [5.0, 3.0]]), np.array([[9.0, 9.0]])]
    assert seed_covariance(rows).tolist() == [[1.0, 0.0], [0.0, 1.0]]
    with pytest.raises(ValueError, match="several seeds"):
        seed_covariance(rows[2:])


def test_left_out_points_are_predicted_and_noise_alone_is_told() -> None:
    found = check(STUDY, recorded(40))
    for name in ("clean_accuracy", "robust_accuracy"):
        assert found[name]["error_of_noise"] == pytest.approx(100 * NOISE / math.sqrt(2), rel=0.2)
        assert found[name]["error"] < 1.5 * found[name]["error_of_noise"]
        assert found[name]["explained"] > 0.8


def test_all_of_the_true_front_is_a_share_of_one_and_a_single_trial_less(truth: Truth) -> None:
    source = np.random.default_rng(0)
    points = [{**recorded(1).points[0], "perturbation.epsilon": epsilon} for epsilon in np.geomspace(1, 16, 40) / 255]
    trials = [
        record_of(number, point, truth.surrogate.measured(point, source), truth) for number, point in enumerate(points)
    ]
    each = [one for trial in trials for one in trial.each_point(["clean_accuracy"])]
    assert truth.share(each) == pytest.approx(1, abs=0.03)
    assert 0 < truth.share(each[40:41]) < 0.8
    assert truth.share([]) == 0


@pytest.mark.parametrize("name", ["random", "random at the cap", "fixed probe", "best fixed probe"])
def test_a_run_is_the_same_again_and_pays_for_its_finalists(truth: Truth, name: str) -> None:
    steps = list(race(name, 0, truth, passes=180_000))
    assert steps == list(race(name, 0, truth, passes=180_000))
    assert len(steps) >= 2
    assert all(0 < share <= 1 for _, share in steps)
    if name == "random at the cap":
        assert all(passes >= 24_000 * (3 + racing.SEEDS) for passes, _ in steps[:1])
        assert len(steps) < len(list(race("random", 0, truth, passes=180_000))), "its trials cost more"


def test_a_fixed_probe_is_judged_at_its_own_strength(truth: Truth) -> None:
    point = recorded(1).points[0]
    curve = true_curve(point)
    for fixed, place in ((0.01, 0), (0.1, 1)):
        (point_of,) = record_of(0, point, curve, truth, fixed=fixed).each_point(["clean_accuracy", "robust_accuracy"])
        assert point_of.l2 == fixed
        assert point_of.values(["clean_accuracy", "robust_accuracy"]) == pytest.approx(curve[place].tolist())


def test_a_share_counts_from_where_it_stays() -> None:
    steps = [(10, 0.5), (20, 0.96), (30, 0.8), (40, 0.95), (50, 0.97)]
    assert passes_to(steps, 0.95) == 40
    assert passes_to(steps, 0.5) == 10
    assert passes_to(steps, 0.99) == math.inf


def test_the_mean_share_is_over_the_logarithm_of_what_all_have_spent() -> None:
    steps = [(10, 0.0), (100, 1.0), (1000, 1.0)]
    assert mean_share(steps, 10, 1000) == pytest.approx(0.75, abs=0.01)
    assert common_passes([steps, [(50, 0.2), (400, 0.9)]]) == (50, 400)
    same = [mean_share(each, 50, 400) for each in (steps, [*steps, (10_000, 1.0)])]
    assert same[0] == same[1], "what a search spends beyond the others changes nothing"


def test_ratios_are_those_of_paired_runs_where_most_get_there() -> None:
    assert ratio_interval([10.0, 20.0, 30.0] * 10, [20.0, 40.0, 60.0] * 10) == (0.5, 0.5, 0.5)
    assert ratio_interval([10.0, 20.0], [math.inf, math.inf]) is None
    assert ratio_interval([math.inf] * 3, [10.0, 20.0, 30.0]) is None


def test_the_table_compares_the_runs_that_all_searches_have() -> None:
    steps = [(100, 0.5), (1000, 0.97)]
    runs = [{"search": name, "run": run, "steps": steps} for name in ("front", "random") for run in range(3)]
    never = [{"search": "tpe", "run": run, "steps": [(100, 0.5), (1000, 0.6)]} for run in range(3)]
    text = table([*runs, *never, {"search": "front", "run": 3, "steps": steps}])
    assert text.startswith("3 paired runs.")
    assert "| random | 1,000, 3 of 3, 1.00 (1.00–1.00) | 1,000, 3 of 3, 1.00 (1.00–1.00) | 0.735 |" in text
    assert "| tpe | 0 of 3 | 0 of 3 | 0.550 |" in text
