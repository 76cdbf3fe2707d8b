"""Statistics of batch norm, estimated anew."""

import pytest
import torch
from random_encoders import random_encoder
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from cfamc_ray.method.encoder import SelfSupervisedEncoder
from cfamc_ray.method.norms import estimating_norms


def crops(seed: int) -> Tensor:
    return torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


def estimate(encoder: SelfSupervisedEncoder, *seeds: int) -> None:
    with torch.no_grad(), estimating_norms(encoder):
        for seed in seeds:
            encoder(crops(seed))


def test_statistics_are_the_means_over_the_minibatches_whatever_they_were_before() -> None:
    encoder, seen = random_encoder(), list[Tensor]()
    norm = encoder.prefeature[1]
    assert isinstance(norm, nn.BatchNorm1d)
    hook = norm.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    estimate(encoder, 2, 3, 4)
    hook.remove()
    assert norm.running_mean is not None
    assert norm.running_var is not None
    torch.testing.assert_close(norm.running_mean, torch.stack([x.mean(0) for x in seen]).mean(0))
    torch.testing.assert_close(norm.running_var, torch.stack([x.var(0) for x in seen]).mean(0))
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    encoder.train()(crops(9))
    estimate(encoder.eval(), 2, 3, 4)
    for name, tensor in encoder.state_dict().items():
        torch.testing.assert_close(tensor, before[name])


@pytest.mark.parametrize("training", [True, False])
def test_weights_modes_and_momenta_stay(training: bool) -> None:
    encoder = random_encoder().train(training)
    weights = {name: weight.clone() for name, weight in encoder.named_parameters()}
    estimate(encoder, 2)
    assert {module.training for module in encoder.modules()} == {training}
    assert {norm.momentum for norm in encoder.modules() if isinstance(norm, _BatchNorm)} == {0.1}
    assert all(torch.equal(weight, weights[name]) for name, weight in encoder.named_parameters())


def test_an_encoder_without_batch_norm_is_left_alone() -> None:
    encoder = random_encoder(norm="group")
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    estimate(encoder, 2)
    assert all(torch.equal(tensor, before[name]) for name, tensor in encoder.state_dict().items())
