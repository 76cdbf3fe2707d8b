"""Evaluation of images of 224 pixels: its memory does not depend on how many there are."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from cfamc_ray.config.encoder import EncoderConfig
from cfamc_ray.cost.work import INPUT_BYTES
from cfamc_ray.data.images import LabelledImages
from cfamc_ray.data.mapped import MappedImages, header, map_images
from cfamc_ray.evaluation.batches import still_right
from cfamc_ray.evaluation.classifier import LinearClassifier
from cfamc_ray.method.encoder import SelfSupervisedEncoder

EVALUATE = """
import sys
from pathlib import Path
import torch
from cfamc_ray.config.encoder import EncoderConfig
from cfamc_ray.config.evaluation import EvaluationConfig
from cfamc_ray.cost import work
from cfamc_ray.cost.memory import peak_memory_bytes, reset_peak_memory
from cfamc_ray.data.images import LabelledImages
from cfamc_ray.data.mapped import map_images
from cfamc_ray.evaluation.scores import search_scores
from cfamc_ray.method.encoder import SelfSupervisedEncoder

work.INPUT_BYTES, work.BATCH_BYTES = 10**7, 5 * 10**7
torch.manual_seed(0)
torch.set_num_threads(1)
narrow = EncoderConfig(stem="large", width=4, prefeature_width=16, hidden_width=16, embedding_width=4)
encoder = SelfSupervisedEncoder(narrow)
mapped = map_images(Path(sys.argv[1]), (240, 3, 224, 224))
images = LabelledImages(mapped, torch.arange(240) % 2)
config = EvaluationConfig.model_validate({"attack": {"name": "margins", "steps": 1}, "epsilon": 1e-6})
def peak(count):
    some = images.take(torch.arange(count))
    reset_peak_memory(torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    scores = search_scores(encoder, some, some, classes=2, config=config, generator=generator)
    assert scores.attacked_images == count
    assert scores.balanced.robust_accuracy > 0.5
    return peak_memory_bytes(torch.device("cpu"))
peak(12)
print(peak(20), peak(120))
"""


@pytest.fixture
def mapped(tmp_path: Path) -> MappedImages:
    """240 images in a file."""
    pixels_NCHW = torch.randint(0, 256, (240, 3, 224, 224), dtype=torch.uint8)
    (tmp_path / "images.npy").write_bytes(header((240, 3, 224, 224)) + pixels_NCHW.numpy().tobytes())
    images = map_images(tmp_path / "images.npy", (240, 3, 224, 224))
    assert images is not None
    return images


@pytest.mark.long
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="measures memory as Linux counts it")
def test_six_times_as_many_images_take_no_more_memory(mapped: MappedImages, tmp_path: Path) -> None:
    command = [sys.executable, "-c", EVALUATE, str(tmp_path / "images.npy")]
    given_back = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}  # what is freed does not stay in the process
    ran = subprocess.run(command, env=given_back, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    few, many = map(int, ran.stdout.split())
    assert many - few < 60e6, (
        "without limits it would be 575 MB: 100 images are 60 MB as float32, of which there are ten"
    )


def test_an_attack_gets_as_many_images_at_once_as_its_inputs_may_take(mapped: MappedImages) -> None:
    encoder = SelfSupervisedEncoder(EncoderConfig(stem="large", width=4, prefeature_width=16)).eval()
    classifier = LinearClassifier(encoder, nn.Linear(16, 2))
    images, calls = LabelledImages(mapped, torch.zeros(240, dtype=torch.int64)), list[int]()

    def counted(pixels_bCHW: Tensor, _: Tensor) -> Tensor:
        calls.append(len(pixels_bCHW))
        return pixels_bCHW

    with torch.no_grad():
        still_right(classifier, images, torch.ones(240, dtype=torch.bool), counted, at_once=40)
        assert calls == [INPUT_BYTES // (4 * 3 * 224**2), 240 - INPUT_BYTES // (4 * 3 * 224**2)]
        still_right(classifier, images, torch.ones(240, dtype=torch.bool), counted, at_once=40, whole_sample=True)
        assert calls[2:] == [240]
