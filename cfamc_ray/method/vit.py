"""A vision transformer (arXiv 2010.11929) without a classifier.

Shapes: N images, C/H/W channels/height/width, F features, T tokens of width D, A heads of width E, K frequencies.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cfamc_ray.config.encoder import BackboneConfig, EncoderConfig
from cfamc_ray.config.errors import InputError
from cfamc_ray.method.backbones import Backbone

HEADS, DEPTH = 3, 12
"""Number of attention heads, and of blocks."""


def build_vit(config: BackboneConfig, encoder: EncoderConfig) -> "VisionTransformer":
    """Build a vision transformer with the encoder's width and stem."""
    return VisionTransformer(HEADS * encoder.width, config.patch(encoder.stem))


class Patches(nn.Conv2d):
    """Linear embedding of patches; unlike a plain convolution, it refuses images that patches do not tile."""

    def __init__(self, width: int, side: int) -> None:
        super().__init__(3, width, side, stride=side)

    def forward(self, images_NCHW: Tensor) -> Tensor:
        """Embed pixels as a grid of patches with D channels.

        Raises:
            InputError: if the patches do not tile the image.
        """
        (H, W), side = images_NCHW.shape[-2:], self.stride[0]
        if H % side or W % side:
            raise InputError(
                f"images of {H}x{W} pixels do not divide into the patches of a ViT, {side}x{side}: "
                f"height and width must be multiples of {side} (crops.size, data.image_size)"
            )
        return super().forward(images_NCHW)


class SelfAttention(nn.Module):
    """Every token attends to all tokens of its image (arXiv 1706.03762, equation 1)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.queries_keys_values = nn.Linear(width, 3 * width)
        self.outputs = nn.Linear(width, width)

    def forward(self, x_NTD: Tensor) -> Tensor:
        """Attend, and mix the outputs of the heads."""
        q_NATE, k_NATE, v_NATE = self.queries_keys_values(x_NTD).unflatten(-1, (3, HEADS, -1)).transpose(1, 3).unbind(2)
        read_NATE = F.scaled_dot_product_attention(q_NATE, k_NATE, v_NATE)
        return self.outputs(read_NATE.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class TransformerBlock(nn.Module):
    """Attention and an MLP of fourfold width, each after a norm and with a residual connection (pre-norm)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attention = nn.Sequential(_token_norm(width), SelfAttention(width))
        self.perceptron = nn.Sequential(
            _token_norm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x_NTD: Tensor) -> Tensor:
        """Apply attention and MLP, each with its residual connection."""
        x_NTD = x_NTD + self.attention(x_NTD)
        return x_NTD + self.perceptron(x_NTD)  # type: ignore[no-any-return]


def _token_norm(width: int) -> nn.Module:
    return nn.LayerNorm(width, eps=1e-6)  # as in ViT's own code


class VisionTransformer(Backbone):
    """`DEPTH` blocks on the patches of an image of any size that they tile; features are the mean of the tokens.

    Args:
        width: width of a token (D), a multiple of 4 and of `HEADS`.
        patch: side of a patch in pixels.
    """

    def __init__(self, width: int, patch: int) -> None:
        super().__init__()
        self.width = width
        self.stem = Patches(width, patch)
        self.blocks = nn.Sequential(*(TransformerBlock(width) for _ in range(DEPTH)), _token_norm(width))
        for name, parameter in self.named_parameters():  # as in MAE (arXiv 2111.06377), at every width
            if parameter.ndim > 1:
                nn.init.xavier_uniform_(parameter.flatten(1))
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def after_stem(self, x_NCHW: Tensor) -> Tensor:
        """Apply the blocks and average over the tokens."""
        x_NTD = x_NCHW.flatten(2).transpose(1, 2) + position_embeddings(x_NCHW)
        return self.blocks(x_NTD).mean(1)  # type: ignore[no-any-return]

    @property
    def last_block(self) -> nn.Module:
        """The last block and the norm after it."""
        return self.blocks[-2:]


def position_embeddings(x_NCHW: Tensor) -> Tensor:
    """Embeddings p_TD: sines and cosines of row and column at K = C/4 frequencies (as in MoCo v3, arXiv 2104.02057)."""
    _, C, H, W = x_NCHW.shape
    rows_H, columns_W, k_K = (torch.arange(n, dtype=x_NCHW.dtype, device=x_NCHW.device) for n in (H, W, C // 4))
    phases_T2K = torch.cartesian_prod(rows_H, columns_W)[..., None] * 10_000 ** (-k_K / len(k_K))
    return torch.cat([phases_T2K.sin(), phases_T2K.cos()], -1).flatten(1)
