import math
from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

from cfamc_ray.config.encoder import EncoderConfig
from cfamc_ray.config.errors import InputError
from cfamc_ray.method.backbones import build_backbone
from cfamc_ray.method.resnet import ResNet
from cfamc_ray.method.vit import VisionTransformer, position_embeddings

RESNETS = ["resnet18", "resnet50"]
STEMS = ["small", "large"]


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def images(count: int, *, side: int = 32) -> Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def vit(width: int = 4, stem: str = "small") -> VisionTransformer:
    config = EncoderConfig.model_validate({"architecture": "vit", "stem": stem, "width": width})
    network = build_backbone(config).double()
    assert isinstance(network, VisionTransformer)
    return network


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def torchvision_backbone(architecture: str, stem: str) -> nn.Module:
    """Torchvision's ResNet without its classifier; the small stem is the usual change for CIFAR."""
    network: nn.Module = getattr(torchvision.models, architecture)()
    network.fc = nn.Identity()
    if stem == "small":
        network.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
        network.maxpool = nn.Identity()
    return network


@pytest.mark.parametrize(("architecture", "count"), [("resnet18", 11_168_832), ("resnet50", 23_500_352)])
@pytest.mark.parametrize(("stem", "more"), [("small", 0), ("large", 64 * 3 * (7 * 7 - 3 * 3))])
def test_a_resnet_has_as_many_parameters_as_torchvisions(architecture: str, count: int, stem: str, more: int) -> None:
    with torch.device("meta"):
        ours, theirs = ResNet(architecture, 64, nn.BatchNorm2d, stem=stem), torchvision_backbone(architecture, stem)
    assert parameters(ours) == parameters(theirs) == count + more


@pytest.mark.parametrize("architecture", RESNETS)
@pytest.mark.parametrize(("stem", "side"), [("small", 16), ("large", 64), ("large", 33)])
@pytest.mark.parametrize("training", [True, False])
def test_a_resnet_with_torchvisions_weights_gives_torchvisions_features(
    architecture: str, stem: str, side: int, training: bool
) -> None:
    ours = ResNet(architecture, 64, nn.BatchNorm2d, stem=stem).double().train(training)
    theirs = torchvision_backbone(architecture, stem).double().train(training)
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        mine.data.copy_(other.data)
    with torch.no_grad():
        expected = theirs(images(3, side=side))
        torch.testing.assert_close(ours(images(3, side=side)), expected, rtol=1e-9, atol=1e-9 * expected.std().item())


def test_a_resnet_of_the_small_stem_keeps_the_names_that_saved_encoders_have() -> None:
    config = EncoderConfig(width=4)
    names = list(build_backbone(config).state_dict())
    assert names[:3] == ["stem.weight", "stages.0.weight", "stages.0.bias"]
    assert "stages.2.residual.0.weight" in names
    assert names[-1] == "stages.9.residual.4.num_batches_tracked"


@pytest.mark.parametrize("architecture", [*RESNETS, "vit"])
@pytest.mark.parametrize("stem", STEMS)
@pytest.mark.parametrize("norm", ["batch", "group"])
def test_every_backbone_is_its_stem_and_the_rest_and_as_wide_as_it_says(
    architecture: str, stem: str, norm: str
) -> None:
    config = EncoderConfig.model_validate({"architecture": architecture, "stem": stem, "norm": norm, "width": 4})
    backbone = build_backbone(config).double().eval()
    features_NF = backbone(images(2))
    assert features_NF.shape == (2, backbone.width)
    convolution = backbone.stem
    x_NCHW = F.conv2d(images(2), convolution.weight, convolution.bias, convolution.stride, convolution.padding)
    assert torch.equal(features_NF, backbone.after_stem(x_NCHW))


@pytest.mark.parametrize(("stem", "patch"), [("small", 4), ("large", 16)])
@pytest.mark.parametrize("width", [4, 64])
def test_a_vit_has_as_many_parameters_as_its_layers_add_up_to(stem: str, patch: int, width: int) -> None:
    D = 3 * width
    patches = D * 3 * patch**2 + D
    attention = 3 * D * D + 3 * D + D * D + D
    perceptron = 2 * 4 * D * D + 4 * D + D
    assert parameters(vit(width, stem)) == patches + 12 * (attention + perceptron + 2 * 2 * D) + 2 * D


def test_the_vit_of_width_64_is_deit_tiny() -> None:
    """DeiT-Ti (arXiv 2012.12877, table 1) has 5 M parameters; without its 1,000 classes, class token and positions."""
    assert parameters(vit(64, "large")) == 5_717_416 - (192 * 1000 + 1000) - 192 - 197 * 192


def test_a_vit_is_the_encoder_that_torch_has() -> None:
    D, ours = 12, vit(4)
    layer = nn.TransformerEncoderLayer(
        D, 3, 4 * D, dropout=0, activation="gelu", layer_norm_eps=1e-6, batch_first=True, norm_first=True
    )
    theirs = nn.TransformerEncoder(layer, 12, nn.LayerNorm(D, eps=1e-6), enable_nested_tensor=False).double()
    for parameter in ours.parameters():
        nn.init.normal_(parameter, std=0.5)
    blocks: list[Any] = list(ours.blocks)
    last_norm = blocks.pop()
    for mine, other in zip(blocks, theirs.layers, strict=True):
        for norm, into in ((mine.attention[0], other.norm1), (mine.perceptron[0], other.norm2)):
            into.load_state_dict(norm.state_dict())
        other.self_attn.in_proj_weight.data.copy_(mine.attention[1].queries_keys_values.weight)
        other.self_attn.in_proj_bias.data.copy_(mine.attention[1].queries_keys_values.bias)
        other.self_attn.out_proj.load_state_dict(mine.attention[1].outputs.state_dict())
        other.linear1.load_state_dict(mine.perceptron[1].state_dict())
        other.linear2.load_state_dict(mine.perceptron[3].state_dict())
    assert theirs.norm is not None
    theirs.norm.load_state_dict(last_norm.state_dict())
    patches_NTP = F.unfold(images(2), 4, stride=4).transpose(1, 2)
    tokens_NTD = F.linear(patches_NTP, ours.stem.weight.flatten(1), ours.stem.bias)
    expected = theirs(tokens_NTD + position_embeddings(ours.stem(images(2)))).mean(1)
    torch.testing.assert_close(ours(images(2)), expected, rtol=1e-9, atol=1e-9)


def test_positions_are_sines_and_cosines_of_row_and_column() -> None:
    H, W, C = 3, 5, 8
    p_TD = position_embeddings(torch.empty(1, C, H, W, dtype=torch.float64))
    assert p_TD.shape == (H * W, C)
    for row in range(H):
        for column in range(W):
            waves = [[place, place / 10_000**0.5] for place in (row, column)]
            expected = [f(x) for phases in waves for f in (math.sin, math.cos) for x in phases]
            assert p_TD[row * W + column].tolist() == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_no_two_positions_of_a_large_grid_are_alike(dtype: torch.dtype) -> None:
    p_TD = position_embeddings(torch.empty(1, 12, 32, 32, dtype=dtype))
    assert p_TD.dtype == dtype
    distances = torch.cdist(p_TD, p_TD) + torch.eye(len(p_TD)) * 9
    assert distances.min() > 0.1


def swapped(images_NCHW: Tensor) -> Tensor:
    """With the first two patches of 4x4 in each other's place."""
    other_NCHW = images_NCHW.clone()
    other_NCHW[..., :4, :4], other_NCHW[..., :4, 4:8] = images_NCHW[..., :4, 4:8], images_NCHW[..., :4, :4]
    return other_NCHW


def test_where_a_patch_lies_matters_to_its_position_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    network = vit()
    assert (network(images(2)) - network(swapped(images(2)))).abs().max() > 1e-4
    monkeypatch.setattr("cfamc_ray.method.vit.position_embeddings", lambda _: 0)
    torch.testing.assert_close(network(images(2)), network(swapped(images(2))), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("stem", STEMS)
@pytest.mark.parametrize("side", [32, 48])
def test_a_vit_takes_every_size_that_its_patches_tile(stem: str, side: int) -> None:
    network = vit(stem=stem)
    together = network(images(4, side=side))
    torch.testing.assert_close(together[:1], network(images(4, side=side)[:1]), rtol=1e-9, atol=1e-9)
    assert together.std(0).min() > 0


@pytest.mark.parametrize(
    ("stem", "side", "patch"), [("small", 30, "4x4"), ("large", 40, "16x16"), ("large", 8, "16x16")]
)
def test_a_size_that_the_patches_do_not_tile_is_refused(stem: str, side: int, patch: str) -> None:
    with pytest.raises(InputError, match=rf"{side}x{side} pixels .* {patch}.*crops\.size"):
        vit(stem=stem)(images(1, side=side))
    with pytest.raises(InputError, match="32x40" if stem == "large" else "32x30"):
        vit(stem=stem)(images(1, side=40)[..., :32, : 40 if stem == "large" else 30])


def test_a_vit_has_the_same_gradients_every_time_and_none_is_missing() -> None:
    first = vit()
    second = deepcopy(first)
    weights_NF = torch.randn(3, first.width, dtype=torch.float64)
    for network in (first, second):
        (network(images(3)) * weights_NF).sum().backward()
    for (name, mine), other in zip(first.named_parameters(), second.parameters(), strict=True):
        assert mine.grad is not None, name
        assert mine.grad.abs().max() > 0, name
        assert other.grad is not None
        assert torch.equal(mine.grad, other.grad), name


def test_a_vits_gradient_is_that_of_finite_differences() -> None:
    network = vit()
    pixels_NCHW = images(1, side=8).requires_grad_()
    assert torch.autograd.gradcheck(network, pixels_NCHW)


def test_a_vit_begins_as_mae_does() -> None:
    network = vit(64, "large")
    for name, parameter in network.named_parameters():
        if parameter.ndim > 1:
            outputs, inputs = parameter.flatten(1).shape
            assert parameter.std().item() == pytest.approx((2 / (inputs + outputs)) ** 0.5, rel=0.05), name
            assert parameter.abs().max() <= (6 / (inputs + outputs)) ** 0.5, name
        else:
            assert (parameter == (0 if name.endswith("bias") else 1)).all(), name


def test_a_vit_in_another_memory_format_gives_the_same_features() -> None:
    network = vit()
    expected = network(images(2))
    channels_last = network.to(memory_format=torch.channels_last)
    pixels_NCHW = images(2).contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(channels_last(pixels_NCHW), expected, rtol=1e-9, atol=1e-9)


def test_a_vits_blocks_differ_in_bfloat16_by_its_rounding_alone() -> None:
    network = vit(16).float()
    pixels_NCHW = images(4).float()
    plain = network(pixels_NCHW)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = network(pixels_NCHW)
    assert not torch.equal(plain, rounded)
    assert (plain - rounded).norm() < 0.02 * plain.norm()
