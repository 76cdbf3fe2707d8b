"""The benchmark of making crops: its three ways make the same crops in distribution, and its numbers agree."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from benchmarks.augmentation import Making, config_of, ours, pil, tensors
from cfamc_ray.data.images import ImageSubset, LabelledImages
from cfamc_ray.data.splits import Splits

ROOT = Path(__file__).parent.parent.parent
CPU = torch.device("cpu")


def blotches(images: int) -> Splits:
    """Colourful images that are neither flat nor noise."""
    generator = torch.Generator().manual_seed(0)
    coarse_NCHW = torch.rand(images, 3, 6, 6, generator=generator)
    pixels_NCHW = (torch.nn.functional.interpolate(coarse_NCHW, 32, mode="bicubic").clamp(0, 1) * 255).byte()
    nothing = LabelledImages(pixels_NCHW[:0], torch.zeros(0, dtype=torch.int64))
    return Splits(ImageSubset(pixels_NCHW, torch.arange(images)), nothing, nothing, classes=10)


def looks(making: Making) -> Tensor:
    """Mean and spread of the pixels, and the mean step between neighbours in either direction."""
    torch.manual_seed(0)
    crops_VBCSS = torch.cat(making(), dim=1)
    assert crops_VBCSS.shape == (16, 128, 3, 32, 32)
    steps = [crops_VBCSS.diff(dim=axis).abs().mean() for axis in (-2, -1)]
    return torch.stack([crops_VBCSS.mean(), crops_VBCSS.std(), *steps])


@pytest.mark.parametrize("baseline", [pil, tensors])
def test_the_baselines_make_crops_that_look_like_ours(baseline: type) -> None:
    config, splits = config_of(batch_images=16, minibatches=8), blotches(128)
    expected = looks(ours(config, splits, CPU))
    torch.testing.assert_close(looks(baseline(config, splits, CPU)), expected, rtol=0.04, atol=0)


@pytest.mark.long
def test_one_repeat_gives_rates_ratios_and_parts_that_agree(tmp_path: Path) -> None:
    command = "-m benchmarks.augmentation --device cpu --repeats 1 --minibatches 1 --json"
    environment = {**os.environ, "OMP_WAIT_POLICY": "passive"}  # the other tests want the cores too
    subprocess.run(
        [sys.executable, *command.split(), tmp_path / "found.json"], cwd=ROOT, env=environment, check=True, timeout=100
    )
    found = json.loads((tmp_path / "found.json").read_text())
    speed = {name: values["median"] for name, values in found["crops_per_s"].items()}
    assert speed.keys() == {"ours", "ours_one_thread", "pil", "v2"}
    for pair, ratio in found["ratios"].items():
        mine, other = pair.split(" / ")
        assert ratio["median"] == pytest.approx(speed[mine] / speed[other])
    assert speed["ours_one_thread"] > speed["v2"]  # about four times

    parts = {part: values["median"] for part, values in found["part_ms_per_minibatch"].items()}
    assert parts.keys() == {"drawing", "cutting", "colour jitter", "blur", "rest"}
    assert min(parts.values()) > 0
    for part, share in found["part_shares"].items():
        assert share["median"] == pytest.approx(parts[part] / sum(parts.values()))
    assert parts["colour jitter"] > parts["drawing"]  # about twenty times
