"""The page on encoders elsewhere: its programs compute what `load_encoder` and `load_classifier` compute."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from random_encoders import random_encoder
from torch import Tensor, nn

import cfamc_ray
from cfamc_ray.config.heads import ProbeConfig
from cfamc_ray.evaluation.classifier import save_heads
from cfamc_ray.method.encoder import save_encoder

PAGE = (Path(__file__).parent.parent / "docs" / "encoders.md").read_text(encoding="utf-8")
SECTIONS = {
    section.split("\n", 1)[0]: re.findall(r"^```python\n(.*?)^```", section, re.DOTALL | re.MULTILINE)
    for section in PAGE.split("\n## ")[1:]
}
TRIAL = Path("runs/quickstart/trial_00007")
RESNETS = {
    "published width": {"width": 64},
    "narrow": {},
    "resnet50": {"architecture": "resnet50"},
    "large stem": {"stem": "large"},
    "group norm": {"norm": "group"},
}


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def make_trial(features: str = "prefeature", side: int = 32, **changes: Any) -> None:
    """The files that the page reads: a trial's encoder and heads, and an image."""
    encoder = random_encoder(**changes)
    TRIAL.mkdir(parents=True)
    save_encoder(TRIAL / "encoder.safetensors", encoder, encoder.config)
    width = encoder.backbone.width if features == "backbone" else encoder.config.prefeature_width
    heads = [nn.Linear(width, 3) for _ in range(3)]
    save_heads(
        TRIAL / "heads.safetensors", heads, ProbeConfig.model_validate({"features": features, "l2": [0.01, 0.1, 1]})
    )
    image_HWC = torch.randint(0, 256, (side, side, 3), dtype=torch.uint8)
    Image.fromarray(image_HWC.numpy()).save("image.png")


def run(*sections: str) -> dict[str, Any]:
    names: dict[str, Any] = {}
    for section in sections:
        for code in SECTIONS[section]:
            exec(code, names)  # noqa: S102 (our own page)
    return names


def close(actual: Tensor, expected: Tensor) -> None:
    assert expected.std() > 1e-2, "there is something to compare"
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


def features_of(names: dict[str, Any], kind: str) -> Tensor:
    return cfamc_ray.load_encoder(TRIAL / "encoder.safetensors").features(names["pixels"], kind=kind)


def test_nothing_but_the_export_needs_the_package() -> None:
    codes = [code for section in SECTIONS.values() for code in section]
    assert len(codes) == 7
    assert [code for code in codes if "import cfamc_ray" in code] == SECTIONS["ONNX"][:1]


@pytest.mark.parametrize("changes", [*RESNETS.values(), {"features": "backbone"}], ids=[*RESNETS, "head of backbone"])
def test_torchvision_gets_the_same_features_and_logits(changes: dict[str, Any]) -> None:
    make_trial(**changes)
    names = run("Reading the file", "torchvision", "Pre-feature and head")
    close(names["backbone"], features_of(names, "backbone"))
    close(names["features"], features_of(names, "prefeature"))
    close(names["logits"], cfamc_ray.load_classifier(TRIAL, l2=0.1)(names["pixels"]))


@pytest.mark.parametrize("changes", RESNETS.values(), ids=RESNETS)
def test_timm_s_resnet_gets_the_same_features(changes: dict[str, Any]) -> None:
    pytest.importorskip("timm", reason="needs timm, which is no dependency of the project")
    make_trial(**changes)
    names = run("Reading the file", "torchvision", "timm: ResNet")
    close(names["backbone"], features_of(names, "backbone"))
    close(names["maps"][-1].mean((-2, -1)), names["backbone"])
    assert names["resnet"].feature_info[-1]["num_chs"] == names["backbone"].shape[1]


@pytest.mark.parametrize(("stem", "side"), [("small", 32), ("large", 64)])
def test_timm_s_vision_transformer_gets_the_same_features(stem: str, side: int) -> None:
    pytest.importorskip("timm", reason="needs timm, which is no dependency of the project")
    make_trial(architecture="vit", stem=stem, side=side)
    names = run("Reading the file", "timm: vision transformer", "Pre-feature and head")
    close(names["backbone"], features_of(names, "backbone"))
    close(names["features"], features_of(names, "prefeature"))


@pytest.mark.slow
def test_onnxruntime_gets_the_same_features_and_logits() -> None:
    for name in ("onnxscript", "onnxruntime"):
        pytest.importorskip(name, reason="needs the extra onnx (110 MB)")
    make_trial()
    names = run("ONNX")
    close(
        torch.from_numpy(names["logits"]), cfamc_ray.load_classifier(TRIAL, l2=0.1)(torch.from_numpy(names["pixels"]))
    )
