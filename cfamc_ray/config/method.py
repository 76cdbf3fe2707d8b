"""How an encoder is pretrained: crops and the loop."""

from typing import Literal

from pydantic import Field, model_validator

from cfamc_ray.config.types import Real, Strict

Choice = bool | Literal["auto"]
"""On, off, or `auto`: whichever suits the hardware."""
Share = Real
"""A probability or fraction, from 0 to 1."""


WIDEST_BLUR = 2.6
"""Largest standard deviation of the blur, whose kernel holds three of them."""


class CropsConfig(Strict):
    """Random resized crops, each augmented independently (published recipe of EMP-SSL)."""

    views: int = Field(default=16, ge=2)
    """Number of crops of every image (V). With fewer than 4 the mean embedding is unstable."""
    size: int = Field(default=32, ge=8, le=512)
    """Height and width of a crop in pixels; the cost of a crop pass grows with its square."""
    scale: tuple[Share, Share] = Field(default=(0.08, 1.0), strict=False)
    """Smallest and largest fraction of the image's area; (0.25, 0.25) with ratio (1, 1) are the paper's patches."""
    ratio: tuple[Real, Real] = Field(default=(3 / 4, 4 / 3), strict=False)
    """Smallest and largest aspect ratio, width divided by height."""
    flip_probability: Share = 0.5
    """Probability that a crop is flipped horizontally."""
    jitter_probability: Share = 0.8
    """Probability of colour jitter."""
    brightness: Real = Field(default=0.4, ge=0)
    """Brightness jitter: the factor is drawn from 1 - value to 1 + value."""
    contrast: Real = Field(default=0.4, ge=0)
    """Contrast jitter: the factor is drawn from 1 - value to 1 + value."""
    saturation: Real = Field(default=0.4, ge=0)
    """Saturation jitter: the factor is drawn from 1 - value to 1 + value."""
    hue: Real = Field(default=0.2, ge=0, le=0.5)
    """Largest hue shift in either direction, as a fraction of the colour circle."""
    grayscale_probability: Share = 0.2
    """Probability of conversion to grayscale."""
    blur_probability: Share = 0.1
    """Probability of Gaussian blur."""
    blur_sigma: tuple[Real, Real] = Field(default=(0.1, 2.0), strict=False)
    """Smallest and largest standard deviation of the Gaussian blur, in pixels of the crop; at most 2.6, because its
    kernel ends 8 pixels from the middle."""
    solarize_probability: Share = 0.1
    """Probability that pixels of the brighter half of the range are inverted."""

    @model_validator(mode="after")
    def _sensible(self) -> "CropsConfig":
        for name in ("scale", "ratio", "blur_sigma"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise ValueError(f"{name} must be two positive numbers, the smaller first, not {[low, high]}")
        if self.blur_sigma[1] > WIDEST_BLUR:
            raise ValueError(f"blur_sigma must not exceed {WIDEST_BLUR}, for the kernel ends 8 pixels from the middle")
        if self.scale[1] > 1:
            raise ValueError(f"scale must not exceed 1, the whole image, not {self.scale[1]}")
        for name in type(self).model_fields:
            if name.endswith("_probability") and not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be from 0 to 1, not {getattr(self, name)}")
        return self


class PretrainingConfig(Strict):
    """The training loop."""

    epochs: int = Field(default=10, ge=1)
    """Number of passes over the images, each of which trains every minibatch `replays` times."""
    replays: int = Field(default=3, ge=1)
    """Number of weight updates on the same crops (m)."""
    batch_images: int = Field(default=100, ge=2)
    """Images of a minibatch over all workers (B); the network processes views x batch_images crops at once."""
    views_at_once: int | None = Field(default=None, ge=1)
    """Views that pass the network together, over which batch norm averages; null: all of them. The published
    SimCLR passes its two views one by one."""
    activation_checkpointing: bool = False
    """Whether the activations of `views_at_once` views are recomputed in the backward pass instead of stored: memory no
    longer grows with the views (except for crops and perturbation), for a third more work."""
    compile: Choice = "auto"
    """Whether torch.compile compiles the network and the optimizer's step; needs a C++ compiler. `auto`: on GPUs, for
    trials long enough to repay the minute that compilation takes."""
    cuda_graph: Choice = "auto"
    """Whether an update is captured as one CUDA graph, on a GPU and with one worker. `auto`: for small encoders, whose
    kernels take less time than launching them."""
    split_stem: Choice = "auto"
    """Whether the first layer also computes in bfloat16, on pixels split into two parts that together keep 16 bits;
    only if the precision is bfloat16. `auto`: on GPUs."""
    fused_norm: Choice = "auto"
    """Whether one custom kernel computes batch norm, residual addition and ReLU of a ResNet, on a GPU in bfloat16;
    needs a C compiler for Triton. `auto`: never, since on an H100 it was slower than torch's own kernels."""
    precision: Literal["auto", "float32", "bfloat16", "float64"] = "auto"
    """Arithmetic of the network; the first layer's input, norms of rows and log-determinants use float32 at least.
    `auto` is bfloat16 on GPUs that support it and CPUs with AMX, else float32."""

    @model_validator(mode="after")
    def _chunks_to_recompute(self) -> "PretrainingConfig":
        if self.activation_checkpointing and self.views_at_once is None:
            raise ValueError(
                "activation_checkpointing needs views_at_once, the number of views whose activations are stored"
            )
        return self
