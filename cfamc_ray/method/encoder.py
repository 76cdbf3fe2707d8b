"""A backbone, the pre-feature that probes read, and the projector that the loss sees; chunks of its input; its file.

Shapes: N images or crops, C/H/W channels/height/width, F features, D embedding width.
"""

from collections.abc import Iterator
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
    """Backbone, pre-feature and projector; what it returns are rows of unit length.

    Args:
        config: architecture, widths and norm.
        autocast: type of the matrix products after the stem; None for the type of the weights.

    Attributes:
        split_stem: whether the stem computes in the type of `autocast` too (`split_convolution`).
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
        """Pixels in [0, 1] to z_ND, unit rows in float32 at least."""
        # The stem sees its input as it is: bfloat16 has a step of 1/256 near 1, in which a small perturbation vanishes.
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
        """What a probe reads, without autocast.

        Args:
            images_NCHW: pixels in [0, 1].
            kind: ``prefeature`` or ``backbone``.
        """
        backbone_NF = self.backbone(images_NCHW.contiguous(memory_format=torch.channels_last))
        return backbone_NF if kind == "backbone" else self.prefeature(backbone_NF)  # type: ignore[no-any-return]


class InChunks(nn.Module):
    """An encoder that sees a few crops at once; batch norm averages over each chunk by itself.

    Args:
        encoder: of crops (N, C, H, W).
        at_once: crops of a chunk.
        activation_checkpointing: whether a chunk's activations are computed again in the backward pass instead of kept.
            Memory then holds those of one chunk, at the price of a second forward pass; gradients and batch-norm
            statistics stay the same.
    """

    def __init__(self, encoder: nn.Module, at_once: int, *, activation_checkpointing: bool = False) -> None:
        super().__init__()
        self.encoder, self.at_once, self.activation_checkpointing = encoder, at_once, activation_checkpointing

    def forward(self, images_NCHW: Tensor) -> Tensor:
        """Pixels in [0, 1] to z_ND."""
        return torch.cat([self._encode(some_nCHW) for some_nCHW in images_NCHW.split(self.at_once)])

    def _encode(self, images_nCHW: Tensor) -> Tensor:
        if not self.activation_checkpointing:
            return self.encoder(images_nCHW)  # type: ignore[no-any-return]
        return checkpoint(  # type: ignore[no-any-return]
            self.encoder, images_nCHW, use_reentrant=False, preserve_rng_state=False, context_fn=self._contexts
        )

    def _contexts(self) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        """Around the first computation and around the second, which is in the first one's mode."""
        return nullcontext(), _again(self.encoder, training=self.encoder.training)


@contextmanager
def _again(module: nn.Module, *, training: bool) -> Iterator[None]:
    """A mode, in which batch norm counts nothing twice."""
    norms = [norm for norm in module.modules() if isinstance(norm, _BatchNorm)]
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    was_training = module.training
    module.train(training)
    for norm in norms:  # a copy counts: SyncBatchNorm needs something to count with
        assert norm.num_batches_tracked is not None
        norm.momentum, norm.num_batches_tracked = 0.0, norm.num_batches_tracked.clone()
    try:
        yield
    finally:
        module.train(was_training)
        for norm, (momentum, batches) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, batches


def save_encoder(path: Path, encoder: SelfSupervisedEncoder, config: EncoderConfig) -> None:
    """Write weights and config as one safetensors file; a reader never sees half of it."""
    weights = {name: tensor.contiguous() for name, tensor in encoder.state_dict().items()}
    with replacing(path) as partial:
        save_file(weights, partial, metadata={"encoder": config.model_dump_json()})


def load_encoder(path: Path | str) -> SelfSupervisedEncoder:
    """Read what `save_encoder` wrote, on the CPU and in evaluation mode.

    Raises:
        InputError: where the file is missing or is not such a file.
    """
    try:
        with safe_open(path, framework="pt") as file:
            config = EncoderConfig.model_validate_json((file.metadata() or {})["encoder"])
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        encoder = SelfSupervisedEncoder(config).to(weights["backbone.stem.weight"].dtype)
        encoder.load_state_dict(weights)
    except (OSError, SafetensorError, KeyError, ValidationError, RuntimeError) as error:
        raise InputError(f"{path}: not an encoder that was saved here ({error})") from None
    return encoder.eval()
