"""ONNX files: onnxruntime computes from them what torch computes, for any number and size of images."""

from pathlib import Path
from typing import Any

import pytest
import torch
from random_encoders import random_encoder
from torch import Tensor, nn

from cfamc_ray.evaluation.classifier import LinearClassifier
from cfamc_ray.evaluation.onnx import export_onnx

pytest.importorskip("onnxscript", reason="needs the extra onnx (110 MB)")
runtime = pytest.importorskip("onnxruntime", reason="needs the extra onnx (110 MB)")
pytestmark = pytest.mark.slow

SIZES = [(1, 32, 32), (7, 32, 32), (2, 64, 48)]
"""Number of images, height and width; the export itself traces 2 images of 32x32 or 128x128."""


def pixels(images: int, height: int, width: int) -> Tensor:
    return torch.rand(images, 3, height, width, generator=torch.Generator().manual_seed(images))


def outputs(path: Path, names: list[str], pixels_NCHW: Tensor) -> list[Tensor]:
    session = runtime.InferenceSession(path)
    return [torch.from_numpy(output) for output in session.run(names, {"pixels": pixels_NCHW.numpy()})]


def close(actual: Tensor, expected: Tensor) -> None:
    assert expected.std() > 1e-2, "there is something to compare"
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        pytest.param({"architecture": "resnet50", "norm": "group"}, marks=pytest.mark.long),
        {"architecture": "vit"},
    ],
    ids=["resnet18", "resnet50 group", "vit"],
)
def test_features_of_an_encoder_are_those_of_torch(changes: dict[str, Any], tmp_path: Path) -> None:
    made, path = random_encoder(**changes), tmp_path / "encoder.onnx"
    export_onnx(made, path)
    assert [file.name for file in tmp_path.iterdir()] == ["encoder.onnx"]
    for size in SIZES:
        prefeature_NF, backbone_NF = outputs(path, ["prefeature", "backbone"], pixels(*size))
        close(prefeature_NF, made.features(pixels(*size)))
        close(backbone_NF, made.features(pixels(*size), kind="backbone"))


def test_logits_of_a_classifier_are_those_of_torch_also_from_float64_and_in_training_mode(tmp_path: Path) -> None:
    made = LinearClassifier(random_encoder(stem="large"), nn.Linear(64, 3), features="backbone").double()
    made.train()
    export_onnx(made, tmp_path / "classifier.onnx")
    assert made.training
    assert made.head.weight.dtype == torch.float64
    made.eval()
    for size in SIZES:
        (logits_NK,) = outputs(tmp_path / "classifier.onnx", ["logits"], pixels(*size))
        close(logits_NK, made(pixels(*size).double()).float())
