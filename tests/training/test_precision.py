"""Training in bfloat16 against training in float32, on real digits."""

import statistics

import pytest

from cfamc_ray.config.trial import TrialConfig
from cfamc_ray.data.splits import load_splits
from cfamc_ray.training.epoch_metrics import TrialMetrics
from cfamc_ray.training.trial import Trial

pytestmark = pytest.mark.long  # minutes where bfloat16 is emulated

SEEDS = range(4)
DIGITS = TrialConfig.model_validate(
    {
        "data": {
            "name": "digits",
            "image_size": 16,
            "pretrain_images": 500,
            "probe_images": 200,
            "validation_images": 400,
        },
        "crops": {"views": 4, "size": 16, "scale": [0.3, 1.0], "flip_probability": 0.0},
        "perturbation": {"epsilon": 32 / 255},
        "encoder": {"width": 8, "prefeature_width": 256, "hidden_width": 256, "embedding_width": 64},
        "pretraining": {"batch_images": 50, "epochs": 1},
        "evaluation": {"epsilon": 16 / 255, "attacked_images": 200},
    }
)


@pytest.fixture(scope="module")
def ends() -> dict[str, list[TrialMetrics]]:
    """The last row of a trial for each precision and seed."""

    def end(precision: str, seed: int) -> TrialMetrics:
        config = DIGITS.with_values({"pretraining.precision": precision, "seed": seed})
        return list(Trial(config, load_splits(config.data)))[-1]

    return {precision: [end(precision, seed) for seed in SEEDS] for precision in ("float32", "bfloat16")}


@pytest.mark.parametrize("metric", ["loss", "coding_rate", "clean_accuracy", "robust_accuracy"])
def test_bfloat16_agrees_with_float32_within_the_spread_of_the_seeds(
    ends: dict[str, list[TrialMetrics]], metric: str
) -> None:
    exact, rounded = ([row.row()[metric] for row in ends[precision]] for precision in ("float32", "bfloat16"))
    assert exact != rounded, "the two are not the same arithmetic"
    spread = max(statistics.stdev(exact), statistics.stdev(rounded))
    assert abs(statistics.mean(rounded) - statistics.mean(exact)) < 2 * spread


def test_the_images_are_learned(ends: dict[str, list[TrialMetrics]]) -> None:
    for rows in ends.values():
        assert statistics.mean(row.clean_accuracy for row in rows) > 0.7
        assert statistics.mean(row.robust_accuracy for row in rows) > 0.1
