"""The test problems of the race of samplers: their true fronts, and what is counted of a search."""

from itertools import pairwise

import numpy as np
import pytest

from benchmarks.samplers import DIRECTIONS, PROBLEMS, run, scale_of, table
from cfamc_ray.front.dominance import hypervolume


@pytest.mark.parametrize("name", PROBLEMS)
def test_no_random_point_beats_the_true_front(name: str) -> None:
    made, source = PROBLEMS[name], np.random.default_rng(1)
    front = np.array([made.values(made.front(place)) for place in np.linspace(0, 1, 301)])
    for _ in range(500):
        point = [
            source.choice(written["choice"])
            if "choice" in written
            else source.uniform(*(written.get("float") or (1, 6)))
            for written in made.space.values()
        ]
        better = (np.array(made.values(point)) > front + 1e-2).all(axis=1)
        assert not better.all()
        assert (
            hypervolume([*front, made.values(point)], scale_of(name).reference, DIRECTIONS)
            <= 1.01 * scale_of(name).whole
        )


def test_zdt_and_dtlz2_are_those_of_their_papers() -> None:
    assert PROBLEMS["zdt1"].values([0.25, 0, 0, 0, 0]) == pytest.approx((-0.25, -0.5))
    assert PROBLEMS["zdt2"].values([0.5, 0, 0, 0, 0]) == pytest.approx((-0.5, -0.75))
    assert PROBLEMS["zdt3"].values([0.05, 0, 0, 0, 0]) == pytest.approx((-0.05, -(1 - 0.05**0.5 - 0.05)))
    assert PROBLEMS["zdt1"].values([0.0, 1, 1, 1, 1]) == pytest.approx((0, -10))
    assert PROBLEMS["dtlz2"].values([0.5, 0.5, 0.5, 0.5, 0.5]) == pytest.approx((-(0.5**0.5), -(0.5**0.5)))
    assert PROBLEMS["dtlz2"].values([0.0, 1, 0, 1, 0]) == pytest.approx((-2, 0))


def test_a_search_is_counted_by_its_noise_free_values() -> None:
    shares, seconds = run("random", "zdt1", 0.3, 0)
    assert len(shares) == 40
    assert seconds > 0
    assert all(earlier <= later + 1e-12 for earlier, later in pairwise(shares))
    assert 0 < shares[-1] < 1
    assert run("random", "zdt1", 0.03, 0)[0] == shares  # random search does not see the noise
    rows = [{"sampler": "random", "problem": "zdt1", "noise": 0.3, "seed": 0, "shares": shares, "seconds": seconds}] * 2
    assert f"| zdt1, 30% | {shares[-1]:.3f} ± 0.000 |" in table(rows, ["random"])
