"""Encoders between two encoders: their weights."""

import copy

import pytest
import torch

from cfamc_ray.config.encoder import EncoderConfig
from cfamc_ray.method.encoder import SelfSupervisedEncoder
from cfamc_ray.method.interpolation import interpolate


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
