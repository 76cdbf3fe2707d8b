"""Encoders between two encoders: their weights, and batch norm's statistics for them."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from cfamc_ray.config.encoder import EncoderConfig
from cfamc_ray.method.encoder import SelfSupervisedEncoder
from cfamc_ray.method.interpolation import estimate_norms, interpolate


def encoder(seed: int, **changes: object) -> SelfSupervisedEncoder:
    torch.manual_seed(seed)
    widths = {"width": 4, "prefeature_width": 8, "hidden_width": 8, "embedding_width": 4}
    made = SelfSupervisedEncoder(EncoderConfig.model_validate({**widths, **changes}))
    made.train()(crops(seed))  # so that the statistics of batch norm differ too
    return made


def crops(seed: int, number: int = 6) -> torch.Tensor:
    return torch.rand(number, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_weights_lie_on_the_line_between_both_encoders_which_stay_as_they_are(share: float) -> None:
    first, second = encoder(0), encoder(1)
    before = [copy.deepcopy(one.state_dict()) for one in (first, second)]
    between = interpolate(first, second, share).state_dict()
    for name, weight in between.items():
        if weight.is_floating_point():
            torch.testing.assert_close(weight, (1 - share) * before[0][name] + share * before[1][name])
    for one, kept in zip((first, second), before, strict=True):
        assert all(torch.equal(tensor, kept[name]) for name, tensor in one.state_dict().items())


def test_encoders_of_other_forms_are_refused() -> None:
    with pytest.raises(ValueError, match="more than their weights"):
        interpolate(encoder(0), encoder(0, width=8), 0.5)


def test_statistics_are_the_means_over_the_minibatches_whatever_they_were_before() -> None:
    model, batches = encoder(0), [crops(2), crops(3), crops(4)]
    last = next(m for m in reversed(list(model.prefeature.modules())) if isinstance(m, nn.BatchNorm1d))
    seen: list[torch.Tensor] = []
    hook = last.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    estimate_norms(model, batches)
    hook.remove()
    assert last.running_mean is not None
    assert last.running_var is not None
    torch.testing.assert_close(last.running_mean, torch.stack([x.mean(0) for x in seen]).mean(0))
    torch.testing.assert_close(last.running_var, torch.stack([x.var(0) for x in seen]).mean(0))
    again = encoder(0)
    again.load_state_dict(model.state_dict())
    again.train()(crops(9))
    estimate_norms(again, batches)
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], tensor)


@pytest.mark.parametrize("training", [True, False])
def test_estimation_changes_neither_weights_nor_mode_nor_momentum(training: bool) -> None:
    model = encoder(0).train(training)
    weights = {name: weight.clone() for name, weight in model.named_parameters()}
    estimate_norms(model, [crops(2)])
    assert model.training is training
    assert {norm.momentum for norm in model.modules() if isinstance(norm, _BatchNorm)} == {0.1}
    assert all(torch.equal(weight, weights[name]) for name, weight in model.named_parameters())


def test_an_encoder_without_batch_norm_is_left_alone() -> None:
    model = encoder(0, norm="group")
    minibatches = iter([crops(2)])
    estimate_norms(model, minibatches)
    assert next(minibatches, None) is not None  # none was needed
    assert torch.isfinite(model(crops(2))).all()
