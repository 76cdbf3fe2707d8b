"""How an encoder is pretrained: crops, optimizer and the loop."""

from typing import Literal

from pydantic import Field, model_validator

from cfamc_ray.config.types import Real, Strict

Choice = bool | Literal["auto"]
"""`auto`: as suits the hardware."""
Share = Real
"""A probability or a fraction of a whole, from 0 to 1."""


class CropsConfig(Strict):
    """Random resized crops, each augmented by itself (published recipe of EMP-SSL)."""

    views: int = Field(default=16, ge=2)
    """Crops of every image (V). With fewer than 4 the mean embedding is unstable."""
    size: int = Field(default=32, ge=8, le=512)
    """Height and width of a crop in pixels; the cost of a crop pass grows with its square."""
    scale: tuple[Share, Share] = Field(default=(0.08, 1.0), strict=False)
    """Smallest and largest share of the image's area; (0.25, 0.25) with ratio (1, 1) are the paper's patches."""
    ratio: tuple[Real, Real] = Field(default=(3 / 4, 4 / 3), strict=False)
    """Smallest and largest width over height."""
    flip_probability: Share = 0.5
    """That a crop is mirrored."""
    jitter_probability: Share = 0.8
    """That its colours are jittered."""
    brightness: Real = Field(default=0.4, ge=0)
    """Colour jitter: the factor is drawn from 1 - value to 1 + value; contrast and saturation likewise."""
    contrast: Real = Field(default=0.4, ge=0)
    """Of the colour jitter."""
    saturation: Real = Field(default=0.4, ge=0)
    """Of the colour jitter."""
    hue: Real = Field(default=0.2, ge=0, le=0.5)
    """Largest turn of the hue in either direction, as a share of the whole circle."""
    grayscale_probability: Share = 0.2
    """That a crop loses its colours."""
    blur_probability: Share = 0.1
    """That it is blurred."""
    blur_sigma: tuple[Real, Real] = Field(default=(0.1, 2.0), strict=False)
    """Smallest and largest standard deviation of the Gaussian blur, in pixels of the crop."""
    solarize_probability: Share = 0.1
    """That its bright half is inverted."""

    @model_validator(mode="after")
    def _sensible(self) -> "CropsConfig":
        for name in ("scale", "ratio", "blur_sigma"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise ValueError(f"{name} must be two positive numbers, the smaller first, not {[low, high]}")
        if self.scale[1] > 1:
            raise ValueError(f"scale must not exceed 1, the whole image, not {self.scale[1]}")
        for name in type(self).model_fields:
            if name.endswith("_probability") and not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be from 0 to 1, not {getattr(self, name)}")
        return self


class OptimizerConfig(Strict):
    """SGD with Nesterov momentum and LARS, on a cosine to zero without warm-up."""

    lr: Real = Field(default=0.3, gt=0)
    """Largest effective rate of a layer. Under LARS the local rate is far below, so this hardly acts on weights."""
    momentum: Real = Field(default=0.9, ge=0, lt=1)
    """Nesterov's."""
    weight_decay: Real = Field(default=1e-4, ge=0)
    """Of the weights; biases and norms have none."""
    trust_coefficient: Real | None = Field(default=0.005, gt=0)
    """Strength of LARS, what sets the pace of the weights; null switches LARS off."""
    schedule: Literal["updates", "minibatches", "constant"] = "updates"
    """Horizon of the cosine, which advances at each weight update: all `updates` or, as published, the number of
    `minibatches`, which ends at zero for odd replays and at the full rate for even ones."""


class PretrainingConfig(Strict):
    """The loop."""

    epochs: int = Field(default=10, ge=1)
    """Passes over the images, each of which trains every minibatch `replays` times."""
    replays: int = Field(default=3, ge=1)
    """Weight updates on the same crops (m)."""
    batch_images: int = Field(default=100, ge=2)
    """Images of a minibatch over all workers (B); the network sees views x batch_images crops at once."""
    views_at_once: int | None = Field(default=None, ge=1)
    """Views that pass the network together, so that batch norm averages over them; null: all of them. The published
    SimCLR passes its two views one by one."""
    activation_checkpointing: bool = False
    """Whether activations of `views_at_once` views are computed again in the backward pass instead of kept: memory no
    longer grows with the views (but for crops and perturbation), for a third more work."""
    compile: Choice = "auto"
    """Whether torch.compile fuses the network and the optimizer's step; needs a C++ compiler. `auto`: on GPUs, for
    trials long enough to pay for the minute that it takes."""
    cuda_graph: Choice = "auto"
    """Whether an update is captured as one CUDA graph, on a GPU and with one worker. `auto`: where kernels are so short
    that launching them takes longer (small encoders)."""
    split_stem: Choice = "auto"
    """Whether the first layer, too, computes in bfloat16, on pixels split into two parts that keep 16 bits of them
    together; only where the precision is bfloat16. `auto`: on GPUs."""
    fused_norm: Choice = "auto"
    """Whether batch norm, the residual's addition and ReLU of a ResNet are one kernel of our own, on a GPU in bfloat16;
    needs a C compiler for Triton. `auto`: where that is so, and the kernel has been compared with torch's on this
    GPU."""
    precision: Literal["auto", "float32", "bfloat16", "float64"] = "auto"
    """Arithmetic of the network; the first layer's input, norms of rows and log-determinants stay in float32 at least.
    `auto` is bfloat16 on GPUs that compute it and CPUs with AMX, else float32."""

    @model_validator(mode="after")
    def _chunks_to_recompute(self) -> "PretrainingConfig":
        if self.activation_checkpointing and self.views_at_once is None:
            raise ValueError(
                "activation_checkpointing needs views_at_once, the number of views whose activations memory holds"
            )
        return self
