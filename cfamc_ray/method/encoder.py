"""The encoder: a backbone, the pre-feature that probes read, and the projector; its chunked form and its file.

Shapes: N images or crops, C/H/W channels/height/width, F features, D embedding width.
"""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from cfamc_ray.config.encoder import EncoderConfig
from cfamc_ray.config.errors import InputError
from cfamc_ray.host.files import replacing
from cfamc_ray.method.backbones import build_backbone
from cfamc_ray.method.convolution import split_convolution


class SelfSupervisedEncoder(nn.Module):
    """Backbone, pre-feature and projector, which maps images to rows of unit length.

    Args:
        config: architecture, widths and norm.
        autocast: type of the matrix products after the stem; None for the type of the weights.

    Attributes:
        split_stem: whether the stem also computes in the type of `autocast` (`split_convolution`).
    """

    split_stem = False

    def __init__(self, config: EncoderConfig, *, autocast: torch.dtype | None = None) -> None:
        super().__init__()
        self.config = config
        norm = nn.BatchNorm1d if config.norm == "batch" else nn.LayerNorm
        self.autocast = autocast
        self.backbone = build_backbone(config)
        self.prefeature = nn.Sequential(
            nn.Linear(self.backbone.width, config.prefeature_width),
            norm(config.prefeature_width),
            nn.ReLU(inplace=True),
        )
        self.projector = nn.Sequential(
            nn.Linear(config.prefeature_width, config.hidden_width),
            norm(config.hidden_width),
            nn.ReLU(inplace=True),
            nn.Linear(config.hidden_width, config.embedding_width),
        )

    def forward(self, images_NCHW: Tensor) -> Tensor:
        """Map pixels in [0, 1] to z_ND, rows of unit length in float32 at least."""
        # The stem gets unrounded input: bfloat16 has a step of 1/256 near 1, in which a small perturbation vanishes.
        x_NCHW = images_NCHW.contiguous(memory_format=torch.channels_last)
        if self.autocast is None:
            x_NCHW = self.backbone.stem(x_NCHW)
        elif self.split_stem:
            x_NCHW = split_convolution(self.backbone.stem, x_NCHW, self.autocast)
        else:
            x_NCHW = self.backbone.stem(x_NCHW).to(self.autocast)
        with torch.autocast(x_NCHW.device.type, dtype=self.autocast) if self.autocast else nullcontext():
            z_ND = self.projector(self.prefeature(self.backbone.after_stem(x_NCHW)))
        return F.normalize(z_ND.to(images_NCHW.dtype), dim=-1)

    def features(self, images_NCHW: Tensor, *, kind: str = "prefeature") -> Tensor:
        """Features that a probe or a measure reads, computed without autocast.

        Args:
            images_NCHW: pixels in [0, 1].
            kind: ``prefeature``, ``backbone``, or ``embedding``, whose rows have unit length.
        """
        features_NF: Tensor = self.backbone(images_NCHW.contiguous(memory_format=torch.channels_last))
        if kind != "backbone":
            features_NF = self.prefeature(features_NF)
        return F.normalize(self.projector(features_NF), dim=-1) if kind == "embedding" else features_NF


class InChunks(nn.Module):
    """An encoder that processes its input in chunks; batch norm averages over each chunk separately.

    Args:
        encoder: encoder of crops (N, C, H, W).
        at_once: number of crops of a chunk.
        activation_checkpointing: whether a chunk's activations are recomputed in the backward pass instead of stored.
            Memory then holds the activations of one chunk, at the cost of a second forward pass; gradients and
            batch-norm statistics stay the same.
    """

    def __init__(self, encoder: nn.Module, at_once: int, *, activation_checkpointing: bool = False) -> None:
        super().__init__()
        self.encoder, self.at_once, self.activation_checkpointing = encoder, at_once, activation_checkpointing

    def forward(self, images_NCHW: Tensor) -> Tensor:
        """Map pixels in [0, 1] to z_ND."""
        return torch.cat([self._encode(some_nCHW) for some_nCHW in images_NCHW.split(self.at_once)])

    def _encode(self, images_nCHW: Tensor) -> Tensor:
        if not self.activation_checkpointing:
            return self.encoder(images_nCHW)  # type: ignore[no-any-return]
        return checkpoint(  # type: ignore[no-any-return]
            self.encoder, images_nCHW, use_reentrant=False, preserve_rng_state=False, context_fn=self._contexts
        )

    def _contexts(self) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        """Contexts of the forward pass and of its recomputation, which uses the forward pass's modes."""
        return nullcontext(), _again({module: module.training for module in self.encoder.modules()})


@contextmanager
def _again(modes: Mapping[nn.Module, bool]) -> Iterator[None]:
    """Set modules' modes for a recomputation, in which batch norm does not update its statistics again."""
    norms = [norm for norm in modes if isinstance(norm, _BatchNorm)]
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    modes_before = {module: module.training for module in modes}
    _set_modes(modes)
    for norm in norms:  # count in a copy, because SyncBatchNorm needs a counter
        assert norm.num_batches_tracked is not None
        norm.momentum, norm.num_batches_tracked = 0.0, norm.num_batches_tracked.clone()
    try:
        yield
    finally:
        _set_modes(modes_before)
        for norm, (momentum, batches) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, batches


def _set_modes(modes: Mapping[nn.Module, bool]) -> None:
    for module, training in modes.items():
        module.training = training


def save_encoder(path: Path, encoder: SelfSupervisedEncoder, config: EncoderConfig) -> None:
    """Write weights and config as one safetensors file, atomically."""
    weights = {name: tensor.contiguous() for name, tensor in encoder.state_dict().items()}
    with replacing(path) as partial:
        save_file(weights, partial, metadata={"encoder": config.model_dump_json()})


def load_encoder(path: Path | str) -> SelfSupervisedEncoder:
    """Read a file that `save_encoder` wrote.

    Args:
        path: path of the file, such as runs/STUDY/trial_00007/encoder.safetensors.

    Returns:
        The encoder, on the CPU and in evaluation mode.

    Raises:
        InputError: if the file is missing or is not such a file.
    """
    try:
        with safe_open(path, framework="pt") as file:
            config = EncoderConfig.model_validate_json((file.metadata() or {})["encoder"])
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        with torch.random.fork_rng(devices=[]):  # its first weights are drawn, and replaced
            encoder = SelfSupervisedEncoder(config).to(weights["backbone.stem.weight"].dtype)
        encoder.load_state_dict(weights)
    except (OSError, SafetensorError, KeyError, ValidationError, RuntimeError) as error:
        raise InputError(f"{path}: not an encoder that cfamc_ray saved ({error})") from None
    return encoder.eval()
