"""Trials of a few seconds: three minibatches an epoch of random images through an encoder of a few thousand weights."""

from typing import Any

import torch
from torch import Tensor

from cfamc_ray.config.trial import TrialConfig
from cfamc_ray.data.images import ImageSubset, LabelledImages
from cfamc_ray.data.splits import Splits
from cfamc_ray.training.trial import Trial


def tiny_config(**changes: Any) -> TrialConfig:
    """Three minibatches an epoch through an encoder of a few thousand weights."""
    return TrialConfig().with_values(
        {
            "data.pretrain_images": 13,
            "data.probe_images": 20,
            "data.validation_images": 10,
            "crops.views": 2,
            "crops.size": 16,
            "encoder.width": 4,
            "encoder.prefeature_width": 8,
            "encoder.hidden_width": 8,
            "encoder.embedding_width": 4,
            "pretraining.epochs": 2,
            "pretraining.replays": 2,
            "pretraining.batch_images": 4,
            "pretraining.precision": "float32",
            "evaluation.attack.steps": 1,
            "evaluation.attacked_images": 5,
            "evaluation.head.iterations": 10,
            **changes,
        }
    )


def tiny_splits() -> Splits:
    generator = torch.Generator().manual_seed(0)
    images_NCHW = torch.randint(0, 256, (43, 3, 20, 20), dtype=torch.uint8, generator=generator)
    labelled = LabelledImages(images_NCHW, torch.arange(43) % 2)
    return Splits(
        pretrain=ImageSubset(images_NCHW, torch.arange(13)),
        probe=labelled.take(torch.arange(13, 33)),
        validation=labelled.take(torch.arange(33, 43)),
        classes=2,
    )


def tiny_trial(config: TrialConfig | None = None, **settings: Any) -> Trial:
    return Trial(config or tiny_config(), tiny_splits(), **settings)


def state(trial: Trial) -> dict[str, Tensor]:
    """All that training has changed."""
    named = {f"momentum {i}": momentum for i, momentum in enumerate(trial.trainer.optimizer.state_tensors())}
    return {**trial.trainer.encoder.state_dict(), **named, "delta": trial.trainer.delta_VbCHW}
