import pytest
import torch

from benchmarks import training_step
from benchmarks.training_step import Ours, Reference, Speed
from cfamc_ray.config.trial import TrialConfig
from cfamc_ray.cost.counting import crop_pass_flops

CPU = torch.device("cpu")
TINY = TrialConfig().with_values(
    {
        "data.pretrain_images": 8,
        "data.validation_images": 0,
        "crops.views": 2,
        "encoder.width": 4,
        "encoder.prefeature_width": 8,
        "encoder.hidden_width": 8,
        "encoder.embedding_width": 8,
        "pretraining.batch_images": 4,
        "pretraining.replays": 3,
    }
)


@pytest.fixture
def products(monkeypatch: pytest.MonkeyPatch) -> list[torch.dtype]:
    """Types of the matrix products that are timed from here on; none is."""
    timed: list[torch.dtype] = []

    def instead(_: torch.device, dtype: torch.dtype) -> float:
        timed.append(dtype)
        return 1e9

    monkeypatch.setattr(training_step, "product_flops", instead)
    return timed


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float64"])
def test_our_steps_are_compared_with_a_product_in_their_own_arithmetic(
    precision: str, products: list[torch.dtype], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_step, "keep_freed_memory", lambda: None)
    ours = Ours(TINY.with_values({"pretraining.precision": precision}), CPU)
    assert ours.gemm() == (precision, 1e9)
    assert products == [getattr(torch, precision)]


def test_the_published_loop_is_compared_with_a_product_in_float32(products: list[torch.dtype]) -> None:
    assert Reference(TINY, CPU, 0, False).gemm() == ("float32", 1e9)
    assert products == [torch.float32]


def test_a_loop_s_speed_follows_from_what_it_trained_and_its_own_product() -> None:
    found = Speed(TINY, [0.5, 2.0, 1.0], "float32", gemm_flops=1e9).described()
    flops = 2 * 8 * 3 * crop_pass_flops(TINY.encoder, 32)[0]  # of an epoch, whose median is a second
    assert found["crops_per_s"] == {"median": 48, "min": 24, "max": 96}
    assert (found["precision"], found["gemm_tflop_per_s"]) == ("float32", 1e-3)
    assert found["tflop_per_s"] == pytest.approx(flops / 1e12)
    assert found["model_flops_utilisation"] == pytest.approx(flops / 1e9)
