"""Everything that decides one trial's result, and the quantities that follow from it.

The field docstrings are the reference of every key; the defaults are the paper's recipe (arXiv 2501.03507) with the
corrected variant of each choice that the published code hides.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, Field, model_validator

from cfamc_ray.config.space import Pixels, Real, Strict

Choice = bool | Literal["auto"]
"""`auto`: as suits the hardware."""
Share = Real
"""A probability or a fraction of a whole, from 0 to 1."""


class DataConfig(Strict):
    """Which images, and how many of them pretrain, probe and validate."""

    name: Literal["digits", "cifar10", "cifar100", "npz", "imagefolder"] = "cifar10"
    """`digits` ships with scikit-learn; `cifar10` and `cifar100` are torchvision's; `npz` is a file with x_train,
    y_train, x_test, y_test; `imagefolder` is a folder with one folder of images for each class. Training images of the
    last two may be unlabelled: label -1 in y_train, a folder `unlabelled`."""
    path: str | None = None
    """The file of `npz` or the folder of `imagefolder`; a relative path is looked up in the working directory, then in
    the folder that the environment variable CFAMC_DATA names."""
    image_size: int = Field(default=32, ge=8, le=1024)
    """Height and width in pixels to which `digits` and `imagefolder` are resized once; other sources keep theirs."""
    pretrain_images: int = Field(default=45_000, ge=2)
    """Images that pretraining sees, without their labels; unlabelled ones are among them in proportion."""
    probe_images: int = Field(default=45_000, ge=2)
    """Labelled training images that the linear probe is fitted on."""
    probe_overlap: bool = True
    """Whether the probe may be fitted on images that pretraining saw too."""
    validation_images: int = Field(default=5_000, ge=0)
    """Labelled training images held out of pretraining and probe; a search is judged on them alone. 0: nothing is
    measured while it trains, as where all images pretrain."""
    split_seed: int = Field(default=0, ge=0)
    """Seed of the stratified split and of every sample of test images; it is not the trial's seed, so that all trials
    are judged on the same images."""

    @model_validator(mode="after")
    def _path_where_needed(self) -> "DataConfig":
        if self.name in ("npz", "imagefolder") and self.path is None:
            raise ValueError(f"path is missing: name the {'file' if self.name == 'npz' else 'folder'} of {self.name}")
        if self.name not in ("npz", "imagefolder") and self.path is not None:
            raise ValueError(f"path is only for npz and imagefolder; {self.name} needs none")
        return self


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


class PerturbationConfig(Strict):
    """One perturbation per crop, inside the l∞ ball of radius epsilon and inside the pixel box."""

    attack: Literal["free", "pgd", "none"] = "free"
    """`free`: the backward pass of each replay also moves the perturbation; `pgd`: separate attack passes before one
    weight update; `none`: ordinary pretraining."""
    epsilon: Pixels = 8 / 255
    """Radius of the ball."""
    step_ratio: Real = Field(default=0.01 * 255 / 8, gt=0)
    """Step size over epsilon; the published step of 0.01 at 8/255 is 0.31875."""
    steps: int = Field(default=5, ge=1)
    """Attack passes per minibatch; read by `pgd` alone."""
    clean_views: int = Field(default=0, ge=0)
    """So many of the first views stay as they are; SimCLR's adversarial form compares a clean view with a perturbed."""
    carry: bool = True
    """Whether the perturbation goes on to the next minibatch's crops by position; else it starts at zero each time."""
    project_first: bool = True
    """Whether a carried perturbation is clipped to its new crops before the first replay (published: no)."""
    keep_attack_gradients: bool = False
    """Whether a `pgd` weight update also adds the weight gradients of its attack passes (published: yes)."""
    attack_in_train_mode: bool = True
    """Whether batch norm uses and moves its batch statistics in the attack passes of `pgd` (published: yes)."""
    attack_positive: Literal["first", "self"] = "first"
    """Positive of the perturbed second view in the attack passes of `pgd` under `nt_xent`: the clean `first` view, as
    in the update, or `self`, the second view without its perturbation (published)."""

    @property
    def step_size(self) -> float:
        """What one ascent step adds to a pixel."""
        return self.step_ratio * self.epsilon


class EncoderConfig(Strict):
    """A backbone without its classifier, then the pre-feature, then the projector."""

    architecture: Literal["resnet18", "resnet50", "vit"] = "resnet18"
    """`vit`: a vision transformer of 12 blocks and 3 heads, whose features are the mean of its tokens."""
    stem: Literal["small", "large"] = "small"
    """For images of about 32 pixels (ResNet: a 3x3 convolution of stride 1 and no max-pooling; ViT: patches of 4x4) or
    about 224 (a 7x7 convolution of stride 2 and max-pooling; patches of 16x16)."""
    width: int = Field(default=64, ge=4, multiple_of=4)
    """Channels of a ResNet's first stage, a third of a ViT's token width; 64 is the paper's."""
    norm: Literal["batch", "group"] = "batch"
    """`group` normalises each image by itself, so nothing depends on the batch or on the number of workers. The blocks
    of a ViT always use layer norm; its pre-feature and projector obey this key."""
    prefeature_width: int = Field(default=4096, ge=2)
    """Width of the layer that the linear probe reads."""
    hidden_width: int = Field(default=4096, ge=2)
    """Width of the projector's hidden layer."""
    embedding_width: int = Field(default=1024, ge=2)
    """Width of the unit-length rows that the loss sees (D)."""
    synchronize_norm: bool = True
    """Whether several workers on GPUs share one batch norm over the global batch (published: no); torch has no such
    batch norm for CPUs, where each worker normalises its own share."""

    @property
    def patch(self) -> int:
        """Side in pixels of what images are cut into: their sides must be multiples of it."""
        return {"small": 4, "large": 16}[self.stem] if self.architecture == "vit" else 1


class LossConfig(Strict):
    """EMP-SSL (minus the weighted invariance, minus the weighted coding rate), or SimCLR's NT-Xent of two views."""

    name: Literal["emp_ssl", "nt_xent"] = "emp_ssl"
    """EMP-SSL over all views, or NT-Xent of a pair."""
    temperature: Real = Field(default=0.07, gt=0)
    """Of `nt_xent` alone, as are the others of `emp_ssl`."""
    invariance_weight: Real = Field(default=200.0, ge=0)
    """Of the mean cosine to the mean view."""
    rate_weight: Real = Field(default=1.0, ge=0)
    """Of the mean coding rate, which keeps embeddings apart."""
    rate_epsilon: Real = Field(default=0.2, gt=0)
    """Distortion of the coding rate, used as it is (the paper's formula squares it, its code does not)."""


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


class EvaluationConfig(Strict):
    """What a search measures on validation images."""

    every_epochs: int = Field(default=1, ge=1)
    """Epochs between two measurements; the last epoch is always measured."""
    transfer: DataConfig | None = None
    """Another data set that the probe is fitted and judged on, the encoder being frozen; null: the one of `data`."""
    features: Literal["prefeature", "backbone"] = "prefeature"
    """What the linear probe reads: the pre-feature, as published, or the backbone's output."""
    probe_l2: Real = Field(default=1e-2, gt=0)
    """L2 strength of the probe: l2/2 times the squared norm of the weights is added to the mean cross-entropy, features
    being standardised first. Without it separable features drive the head, and its gradients, to extremes."""
    probe_tolerance: Real = Field(default=1e-4, gt=0)
    """The probe's fit ends when no entry of the objective's gradient exceeds this."""
    probe_iterations: int = Field(default=200, ge=1)
    """The probe's fit ends after so many L-BFGS iterations at the latest."""
    attack_epsilon: Pixels = 4 / 255
    """Radius of the l∞ ball of the threat model."""
    attack_steps: int = Field(default=10, ge=1)
    """Steps of projected gradient descent on the cross-entropy, in float32."""
    attack_step_ratio: Real = Field(default=0.25, gt=0)
    """Step size over attack_epsilon."""
    attack_restarts: int = Field(default=1, ge=1)
    """Random starts; an image counts as robust when none breaks it."""
    attack_images: int = Field(default=1_000, ge=1)
    """How many of the validation images are attacked, a stratified sample; all of them where there are fewer."""
    batch_images: int | None = Field(default=None, ge=1, le=250)
    """Images that the encoder sees at once, here and where `confirm` tests it. It decides memory and, but for rounding,
    no result. Null: as many as an attack's activations of 2 GB hold, from 1 to 250."""


class TrialConfig(Strict):
    """One trial: two trials with equal configs, hardware, threads and workers give equal numbers."""

    seed: int = Field(default=0, ge=0)
    """Seed of the initial weights, the order of the images, the crops and the attacks' starts."""
    data: DataConfig = DataConfig()
    crops: CropsConfig = CropsConfig()
    perturbation: PerturbationConfig = PerturbationConfig()
    encoder: EncoderConfig = EncoderConfig()
    loss: LossConfig = LossConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    pretraining: PretrainingConfig = PretrainingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()

    @model_validator(mode="after")
    def _consistent(self) -> "TrialConfig":
        if self.pretraining.batch_images > self.data.pretrain_images:
            raise ValueError(
                f"pretraining.batch_images {self.pretraining.batch_images} exceeds "
                f"data.pretrain_images {self.data.pretrain_images}: an epoch would have no minibatch"
            )
        for key, data in (("data", self.data), ("evaluation.transfer", self.evaluation.transfer)):
            if data is not None and data.validation_images == 1:
                raise ValueError(f"{key}.validation_images must be 0 or at least 2, not 1")
        sizes = {
            f"{key}.image_size": data.image_size
            for key, data in (("data", self.data), ("evaluation.transfer", self.evaluation.transfer))
            if data is not None and data.name in ("digits", "imagefolder")
        }
        for key, size in {"crops.size": self.crops.size, **sizes}.items():
            if size % self.encoder.patch:
                raise ValueError(
                    f"{key} must be a multiple of {self.encoder.patch}, the patch of a vit with encoder.stem "
                    f"{self.encoder.stem}, not {size}"
                )
        if self.perturbation.attack == "pgd" and self.pretraining.replays != 1:
            raise ValueError(
                f"pretraining.replays must be 1 with perturbation.attack pgd, not {self.pretraining.replays}: "
                "its attack passes are perturbation.steps"
            )
        if self.loss.name == "nt_xent" and self.crops.views != 2:
            raise ValueError(f"crops.views must be 2 with loss.name nt_xent, not {self.crops.views}")
        contrasts = self.loss.name == "nt_xent" and self.perturbation.attack == "pgd"
        if self.perturbation.attack_positive == "self" and not (contrasts and self.perturbation.clean_views == 1):
            raise ValueError(
                "perturbation.attack_positive self needs loss.name nt_xent, perturbation.attack pgd and "
                f"perturbation.clean_views 1, not {self.loss.name}, {self.perturbation.attack} and "
                f"{self.perturbation.clean_views}: set it to first"
            )
        if self.perturbation.clean_views >= self.crops.views and self.perturbation.attack != "none":
            raise ValueError(
                f"perturbation.clean_views {self.perturbation.clean_views} leaves none of crops.views "
                f"{self.crops.views} to perturb: lower it, or set perturbation.attack to none"
            )
        return self

    @property
    def judged_on(self) -> DataConfig:
        """Whose images the probe is fitted and judged on."""
        return self.evaluation.transfer or self.data

    def evaluates(self, epoch: int) -> bool:
        """Whether accuracies are measured after an epoch, counted from 1."""
        due = epoch % self.evaluation.every_epochs == 0 or epoch == self.pretraining.epochs
        return due and self.judged_on.validation_images > 0

    @property
    def measurements(self) -> int:
        """How often accuracies are measured in the whole trial."""
        return sum(map(self.evaluates, range(1, self.pretraining.epochs + 1)))

    @property
    def minibatches_per_epoch(self) -> int:
        """Complete minibatches; the images left over sit out the epoch (another few each time)."""
        return self.data.pretrain_images // self.pretraining.batch_images

    @property
    def updates(self) -> int:
        """Weight updates of the whole trial."""
        return self.pretraining.epochs * self.minibatches_per_epoch * self.pretraining.replays

    @property
    def attack_passes_per_epoch(self) -> int:
        """Forward and backward passes of a crop that serve the attack alone, per epoch."""
        if self.perturbation.attack != "pgd":
            return 0
        return self._crops_per_epoch * self.perturbation.steps

    @property
    def crop_passes_per_epoch(self) -> int:
        """All forward and backward passes of one crop in an epoch: V m N for free replay, V (k + 1) N for PGD."""
        return self._crops_per_epoch * self.pretraining.replays + self.attack_passes_per_epoch

    @property
    def crop_passes(self) -> int:
        """Crop passes of the whole trial."""
        return self.pretraining.epochs * self.crop_passes_per_epoch

    def check_share(self, workers: int, *, gpus: bool) -> None:
        """Refuse a share of a minibatch of which batch norm would see a single crop, whose variance is none.

        Args:
            workers: that share it.
            gpus: whether they compute on GPUs, where batch norm can be synchronised.

        Raises:
            ValueError: where a worker's smallest pass has one crop.
        """
        views = self.pretraining.views_at_once or self.crops.views
        smallest = (self.crops.views % views or views) * self.pretraining.batch_images // workers
        synchronised = gpus and self.encoder.synchronize_norm
        if workers > 1 and smallest < 2 and self.encoder.norm == "batch" and not synchronised:
            raise ValueError(
                f"pretraining.views_at_once {self.pretraining.views_at_once} and pretraining.batch_images "
                f"{self.pretraining.batch_images} leave one of {workers} workers a single crop at a time, of which "
                "batch norm has no variance: raise one of them, or set encoder.norm to group"
            )

    @property
    def _crops_per_epoch(self) -> int:
        return self.minibatches_per_epoch * self.pretraining.batch_images * self.crops.views

    @property
    def fingerprint(self) -> str:
        """Twelve hexadecimal digits that are equal for equal configs alone, wherever their images lie.

        Defaults are left out: a key that is added later, and whose default changes nothing, leaves them as they are.
        """
        written = without_paths(self.model_dump(exclude_defaults=True))
        return hashlib.sha256(json.dumps(written, sort_keys=True).encode()).hexdigest()[:12]

    def value_of(self, key: str) -> Any:
        """The value of a dotted key, such as ``crops.views``, or of a derived quantity, such as ``crop_passes``.

        Raises:
            ValueError: where there is no such key.
        """
        value: Any = self
        for name in key.split("."):
            known = isinstance(value, Strict) and (
                name in type(value).model_fields or isinstance(vars(type(value)).get(name), property)
            )
            if name.startswith("_") or not known:
                raise ValueError(f"names {key}, which no trial has")
            value = getattr(value, name)
        return value

    def with_values(self, values: dict[str, Any]) -> "TrialConfig":
        """This config with the values of some dotted keys replaced, validated anew.

        Raises:
            pydantic.ValidationError: where a key is unknown or a value is out of bounds.
        """
        tree = self.model_dump(exclude_unset=True)
        for key, value in values.items():
            *parents, leaf = key.split(".")
            branch = tree
            for parent in parents:
                branch = branch.setdefault(parent, {})
            branch[leaf] = value
        return TrialConfig.model_validate(tree)


def without_paths(trial: Mapping[str, Any]) -> dict[str, Any]:
    """A dumped trial without the places of its images, which are no part of what it is."""

    def unplaced(data: Any) -> Any:
        return {key: value for key, value in data.items() if key != "path"} if isinstance(data, Mapping) else data

    tree = {key: unplaced(value) if key == "data" else value for key, value in trial.items()}
    if isinstance(tree.get("evaluation"), Mapping) and "transfer" in tree["evaluation"]:
        tree["evaluation"] = {**tree["evaluation"], "transfer": unplaced(tree["evaluation"]["transfer"])}
    return tree


def trial_keys() -> list[str]:
    """All dotted keys of a trial, such as ``crops.views``."""
    keys = []
    for name, field in TrialConfig.model_fields.items():
        section = field.annotation
        if isinstance(section, type) and issubclass(section, BaseModel):
            keys += [f"{name}.{leaf}" for leaf in section.model_fields]
        else:
            keys.append(name)
    return keys
