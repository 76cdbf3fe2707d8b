"""An encoder and a linear head as one classifier, of the whole image or of several crops of it.

Shapes: N images, of which B make a minibatch, V crops of an image, C/H/W channels/height/width, S side of a crop, F
features, K classes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from cfamc_ray.config.errors import InputError
from cfamc_ray.config.heads import ProbeConfig
from cfamc_ray.config.method import CropsConfig
from cfamc_ray.cost.work import BATCH
from cfamc_ray.data.images import LabelledImages
from cfamc_ray.data.mapped import Images, select
from cfamc_ray.host.files import replacing
from cfamc_ray.method.crops import cut_boxes, draw_crop_parameters
from cfamc_ray.method.encoder import SelfSupervisedEncoder, load_encoder
from cfamc_ray.method.parallel import ALONE, DistributedContext
from cfamc_ray.method.transfer import to_device
from cfamc_ray.store.layout import ENCODER, HEADS

BoundAttack = Callable[[Tensor, Tensor], Tensor]
"""Maps pixels_BCHW and labels_B to adversarial pixels_BCHW: an `attacks.Attack` with classifier and settings bound."""


@dataclass(frozen=True, eq=False)
class Views:
    """Crops with the same position, size and flip for all images, drawn at random once.

    So a classifier that reads them is deterministic and treats each image independently.
    """

    box_V4: Tensor
    """Top, left, height and width in whole pixels."""
    flip_V: Tensor
    size: int
    """Height and width in pixels to which each crop is resized (S)."""

    def to(self, device: torch.device) -> "Views":
        """Copy the parameters of the crops to a device."""
        return Views(self.box_V4.to(device), self.flip_V.to(device), self.size)


def draw_views(config: CropsConfig, *, height: int, width: int, generator: torch.Generator) -> Views:
    """Draw `views` crops as in pretraining, but without changes of colour.

    Args:
        config: config of which views, size, scale, ratio and flip_probability are used.
        height: height of the images in pixels.
        width: width of the images in pixels.
        generator: random generator on the CPU.
    """
    parameters = draw_crop_parameters(config, images=1, height=height, width=width, generator=generator)
    return Views(parameters.box_VB4[:, 0], parameters.flip_VB[:, 0], config.size)


class LinearClassifier(nn.Module):
    """Maps pixels in [0, 1] to logits, in the type of the encoder's weights.

    With views the head reads the mean of the crops' features, and an attack on the pixels goes through the crops.

    Args:
        encoder: frozen encoder, in evaluation mode and on its final device.
        head: layer from F features to K logits; may be replaced later.
        features: features that the head reads, ``prefeature`` or ``backbone``.
        views: crops whose features are averaged; None for the whole image.
    """

    def __init__(
        self,
        encoder: SelfSupervisedEncoder,
        head: nn.Module,
        *,
        features: str = "prefeature",
        views: Views | None = None,
    ) -> None:
        super().__init__()
        self.encoder, self.head, self.features = encoder, head, features
        self.views = views and views.to(next(encoder.parameters()).device)
        self.training = encoder.training  # attacks of other libraries read the mode here, and restore it

    def forward(self, pixels_NCHW: Tensor) -> Tensor:
        """Compute logits_NK."""
        return self.head(self.features_of(pixels_NCHW))  # type: ignore[no-any-return]

    def features_of(self, pixels_NCHW: Tensor) -> Tensor:
        """Compute features_NF, differentiable with respect to the pixels."""
        if self.views is None:
            return self.encoder.features(pixels_NCHW, kind=self.features)
        return self.features_of_crops(self.crops_of(pixels_NCHW))

    def crops_of(self, pixels_NCHW: Tensor) -> Tensor:
        """Compute crops_NVCSS, differentiable with respect to the pixels."""
        assert self.views is not None, "a classifier of whole images has no crops"
        box_V14, flip_V1 = self.views.box_V4[:, None], self.views.flip_V[:, None]
        return cut_boxes(pixels_NCHW, box_V14, flip_V1, size=self.views.size).transpose(0, 1)

    def features_of_crops(self, crops_NVCSS: Tensor) -> Tensor:
        """Mean features_NF of an image's crops; the encoder processes all N x V crops at once."""
        features_XF = self.encoder.features(crops_NVCSS.flatten(0, 1), kind=self.features)
        return features_XF.reshape(*crops_NVCSS.shape[:2], -1).mean(1)

    def logits_of_crops(self, crops_NVCSS: Tensor) -> Tensor:
        """Compute logits_NK."""
        return self.head(self.features_of_crops(crops_NVCSS))  # type: ignore[no-any-return]

    def inputs(self, pixels_NCHW: Tensor) -> Tensor:
        """The inputs that an attack changes: the pixels."""
        return pixels_NCHW


class EachCrop(nn.Module):
    """A classifier of crops for an attack that changes every crop separately, as the published multi-crop test does.

    Args:
        classifier: classifier that reads several crops.
    """

    def __init__(self, classifier: LinearClassifier) -> None:
        super().__init__()
        self.classifier = classifier
        self.training = classifier.training

    def forward(self, crops_NVCSS: Tensor) -> Tensor:
        """Compute logits_NK."""
        return self.classifier.logits_of_crops(crops_NVCSS)

    def inputs(self, pixels_NCHW: Tensor) -> Tensor:
        """The inputs that an attack changes: the crops."""
        return self.classifier.crops_of(pixels_NCHW)


def save_heads(path: Path, heads: Sequence[nn.Linear], config: ProbeConfig) -> None:
    """Write the heads of a trial's operating points and their config as one safetensors file, atomically.

    Args:
        path: path of the file.
        heads: one for each L2 strength of the config.
        config: config of the heads.
    """
    weight_LKF, bias_LK = torch.stack([head.weight for head in heads]), torch.stack([head.bias for head in heads])
    with replacing(path) as partial:
        parameters = {"weight_LKF": weight_LKF.cpu(), "bias_LK": bias_LK.cpu()}
        save_file(parameters, partial, metadata={"head": config.model_dump_json()})


def load_classifier(folder: Path | str, *, l2: float | None = None) -> LinearClassifier:
    """Read the encoder of a trial and one of its linear probes: a module from pixels in [0, 1] to logits.

    Args:
        folder: folder of a trial with its encoder, such as runs/STUDY/trial_00007.
        l2: L2 strength of the probe, one of the operating points; may be left out where there is only one.

    Raises:
        InputError: if a file is missing or is none that cfamc_ray saved, or if there is no probe of this strength.
    """
    encoder, path = load_encoder(Path(folder) / ENCODER), Path(folder) / HEADS
    try:
        with safe_open(path, framework="pt") as file:
            config = ProbeConfig.model_validate_json((file.metadata() or {})["head"])
            weight_LKF, bias_LK = file.get_tensor("weight_LKF"), file.get_tensor("bias_LK")
    except (OSError, SafetensorError, KeyError, ValidationError) as error:
        raise InputError(f"{path}: not the probes of a trial that cfamc_ray saved ({error})") from None
    known = list(config.l2)
    if (l2 is None and len(known) > 1) or (l2 is not None and l2 not in known):
        given = "" if l2 is None else f", not {l2:g}"
        raise InputError(f"{path}: l2 must be one of {', '.join(f'{each:g}' for each in known)}{given}")
    place = 0 if l2 is None else known.index(l2)
    head: nn.Linear = nn.utils.skip_init(nn.Linear, *reversed(weight_LKF.shape[1:]), dtype=weight_LKF.dtype)
    with torch.no_grad():
        head.weight.copy_(weight_LKF[place])
        head.bias.copy_(bias_LK[place])
    return LinearClassifier(encoder, head.requires_grad_(False), features=config.features).eval()


def as_pixels(images_NCHW: Tensor, encoder: nn.Module) -> Tensor:
    """Convert uint8 images to pixels in [0, 1], in the type and on the device of the encoder's weights."""
    weight = next(encoder.parameters())
    return to_device(images_NCHW, weight.device).to(weight.dtype) / 255


@torch.no_grad()
def in_batches(
    function: Callable[[Tensor], Tensor], inputs_N: Images, *, at_once: int, workers: DistributedContext = ALONE
) -> Tensor:
    """Apply a function, which treats inputs independently, to many inputs in batches, without gradients.

    Args:
        function: function of a batch.
        inputs_N: all inputs; those in a file are read batch by batch.
        at_once: largest size of a batch.
        workers: workers that share the inputs; all get the complete result.
    """
    mine_n = inputs_N
    if workers.world_size > 1:
        mine_n = select(inputs_N, workers.part(torch.arange(len(inputs_N), device=inputs_N.device)))
    outputs_n = torch.cat([function(mine_n[begin : begin + at_once]) for begin in range(0, len(mine_n), at_once)])
    return workers.gather(outputs_n, len(inputs_N))


def attacked_features(
    classifier: LinearClassifier, images: LabelledImages, attack: BoundAttack, *, at_once: int = BATCH
) -> Callable[[Tensor], Tensor]:
    """Build the source of features for an adversarial phase of `probe.train_probe`.

    Args:
        classifier: classifier with the head that is trained.
        images: the training images.
        attack: attack on this classifier.
        at_once: number of images that are encoded at once.

    Returns:
        A function from indices_B of images, on any device, to the features_BF of those images, attacked through the
        current head.
    """

    @torch.no_grad()
    def features_of(indices_B: Tensor) -> Tensor:
        indices_B = indices_B.to(images.images_NCHW.device)
        pixels_BCHW = as_pixels(images.images_NCHW[indices_B], classifier)
        labels_B = images.labels_N[indices_B].to(pixels_BCHW.device)
        return in_batches(classifier.features_of, attack(pixels_BCHW, labels_B), at_once=at_once)

    return features_of
