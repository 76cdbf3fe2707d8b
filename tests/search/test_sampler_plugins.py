"""A sampler that comes from a module outside the package."""

import sys
from pathlib import Path
from typing import Any

import pytest
from asking import drive, search_of

from cfamc_ray.config.reading import dump_study
from cfamc_ray.config.search import SAMPLERS
from cfamc_ray.space.reading import read_study

PLUGIN = '''
"""A sampler that takes each key's value at the same place of its range, and moves on by a step."""

from typing import Any, Literal

from optuna.distributions import CategoricalDistribution
from optuna.samplers import BaseSampler

from cfamc_ray.config.search import SAMPLERS, SamplerConfig


class Sweep(BaseSampler):
    def __init__(self, step: float, seed: int) -> None:
        self.step, self.seed = step, seed

    def infer_relative_search_space(self, study: Any, trial: Any) -> dict[str, Any]:
        return {}

    def sample_relative(self, study: Any, trial: Any, search_space: dict[str, Any]) -> dict[str, Any]:
        return {}

    def sample_independent(self, study: Any, trial: Any, param_name: str, param_distribution: Any) -> Any:
        share = trial.number * self.step % 1
        if isinstance(param_distribution, CategoricalDistribution):
            return param_distribution.choices[int(share * len(param_distribution.choices))]
        return param_distribution.low + share * (param_distribution.high - param_distribution.low)


@SAMPLERS.register
class SweepConfig(SamplerConfig):
    """Values at even steps through the ranges."""

    name: Literal["sweep"] = "sweep"
    step: float = 0.5
    """Share of a range between trials."""

    def build(self, *, seed: int, startup_trials: int, **_: Any) -> BaseSampler:
        assert startup_trials == 3
        return Sweep(self.step, seed)
'''
SPACE = """
name: swept
plugins: [sweeping_sampler]
search: {sampler: {name: sweep, step: 0.25}, startup_trials: 3}
budget: {trials: 4}
space:
  perturbation.epsilon: {float: [0.0, 0.4]}
  encoder.norm: {choice: [batch, group]}
  pretraining.epochs: 2
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "sweeping_sampler.py").write_text(PLUGIN, encoding="utf-8")
    (tmp_path / "space.yaml").write_text(SPACE, encoding="utf-8")
    monkeypatch.setattr(SAMPLERS, "classes", dict(SAMPLERS.classes))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "sweeping_sampler", raising=False)
    return tmp_path


def test_a_sampler_of_one_s_own_proposes_the_points_of_a_search(folder: Path) -> None:
    config = read_study(folder / "space.yaml")
    points: list[Any] = [dict(proposal.point) for proposal in drive(search_of(config))]
    assert [point["perturbation.epsilon"] for point in points] == pytest.approx([0.0, 0.1, 0.2, 0.3])
    assert [point["encoder.norm"] for point in points] == ["batch", "batch", "group", "group"]


def test_its_keys_are_written_down_and_read_back(folder: Path) -> None:
    config = read_study(folder / "space.yaml")
    (folder / "again.yaml").write_text(dump_study(config), encoding="utf-8")
    assert read_study(folder / "again.yaml") == config
    assert read_study(folder / "space.yaml", ["search.sampler.step=0.5"]).identity() != config.identity()


def test_a_sampler_without_keys_is_written_as_its_name(folder: Path) -> None:
    config = read_study(folder / "space.yaml", ["search.sampler=tpe"])
    assert "  sampler: tpe\n" in dump_study(config)


def test_after_its_attempts_random_points_come(folder: Path) -> None:
    config = read_study(folder / "space.yaml", ["search.sampler.step=0"])  # always the same point
    points = [tuple(proposal.point.values()) for proposal in drive(search_of(config))]
    assert len(set(points)) == 4
