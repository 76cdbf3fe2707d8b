"""The published recipe in plain PyTorch: the baseline of every claim of speed, and an oracle for tests.

Written the straightforward way: PIL transforms crop by crop in DataLoader workers, float32, the default memory layout,
LARS parameter by parameter, the loss view by view, one 1024 x 1024 log-determinant after another.

Shapes: V views, B images, C/H/W channels/height/width, D embedding width.
"""

import random
from collections.abc import Iterator, Sequence

import torch
import torchvision
from PIL import Image, ImageFilter, ImageOps
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

TRUST = 0.005
SOLARIZE_ABOVE = 128


class Blur:
    """Gaussian blur of a random strength, as Pillow makes it."""

    def __call__(self, image: Image.Image) -> Image.Image:
        """Blur."""
        return image.filter(ImageFilter.GaussianBlur(radius=random.uniform(0.1, 2.0)))  # noqa: S311 (no secret)


def solarize(image: Image.Image) -> Image.Image:
    """Invert bright pixels."""
    return ImageOps.solarize(image, SOLARIZE_ABOVE)


def crop_transform(size: int) -> transforms.Compose:
    """One augmented crop of a PIL image, as a tensor in [0, 1]."""
    return transforms.Compose(
        [
            transforms.RandomResizedCrop(size, scale=(0.08, 1.0), ratio=(3 / 4, 4 / 3)),
            transforms.RandomHorizontalFlip(0.5),
            transforms.RandomApply([transforms.ColorJitter(0.4, 0.4, 0.4, 0.2)], p=0.8),
            transforms.RandomGrayscale(0.2),
            transforms.RandomApply([Blur()], p=0.1),
            transforms.RandomApply([transforms.Lambda(solarize)], p=0.1),
            transforms.ToTensor(),
        ]
    )


class Crops(Dataset[list[Tensor]]):
    """V crops of each image."""

    def __init__(self, images_NCHW: Tensor, *, views: int, size: int) -> None:
        self.images = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images_NCHW]
        self.transform, self.views = crop_transform(size), views

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> list[Tensor]:
        return [self.transform(self.images[index]) for _ in range(self.views)]


def crop_loader(images_NCHW: Tensor, *, views: int, batch_images: int, size: int = 32, workers: int) -> DataLoader:  # type: ignore[type-arg]
    """Minibatches of crops, a list of V tensors (B, C, H, W)."""
    crops = Crops(images_NCHW, views=views, size=size)
    return DataLoader(crops, batch_size=batch_images, shuffle=True, drop_last=True, num_workers=workers)


class ReferenceEncoder(nn.Module):
    """torchvision's ResNet-18 with a small stem, the pre-feature of 4096 and the projector to 1024."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = torchvision.models.resnet18()
        self.backbone.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
        self.backbone.maxpool = nn.Identity()
        self.backbone.fc = nn.Identity()
        self.prefeature = nn.Sequential(nn.Linear(512, 4096), nn.BatchNorm1d(4096), nn.ReLU())
        self.projector = nn.Sequential(nn.Linear(4096, 4096), nn.BatchNorm1d(4096), nn.ReLU(), nn.Linear(4096, 1024))

    def forward(self, images_NCHW: Tensor) -> Tensor:
        """z_ND, unit rows."""
        return F.normalize(self.projector(self.prefeature(self.backbone(images_NCHW))), dim=-1)


class ReferenceLars:
    """LARS with clipping around SGD, one parameter after the other."""

    def __init__(self, parameters: Sequence[nn.Parameter], *, lr: float) -> None:
        self.sgd = torch.optim.SGD(parameters, lr=lr, momentum=0.9, nesterov=True, weight_decay=1e-4)

    @torch.no_grad()
    def step(self) -> None:
        """Scale each gradient, then take SGD's step without its decay."""
        (group,) = self.sgd.param_groups
        decay, lr = group["weight_decay"], group["lr"]
        for parameter in group["params"]:
            if parameter.ndim > 1 and parameter.grad is not None:
                weight_norm, gradient_norm = torch.norm(parameter), torch.norm(parameter.grad)
                if weight_norm != 0 and gradient_norm != 0:  # the host waits for the device here
                    rate = TRUST * weight_norm / (gradient_norm + decay * weight_norm + 1e-8)
                    parameter.grad.add_(parameter, alpha=decay)
                    parameter.grad.mul_(min(rate / lr, 1) if lr > 0 else 1)
        group["weight_decay"] = 0
        self.sgd.step()
        group["weight_decay"] = decay


def coding_rate(z_BD: Tensor) -> Tensor:
    """Of one view."""
    B, D = z_BD.shape
    return torch.logdet(torch.eye(D, device=z_BD.device, dtype=z_BD.dtype) + D / (B * 0.2) * z_BD.T @ z_BD) / 2


def reference_loss(z_XD: Tensor, views: int) -> Tensor:
    """EMP-SSL's loss of V * B view-major embeddings."""
    z_views = z_XD.chunk(views)
    mean_BD = torch.stack(z_views).mean(0)
    similarity = torch.stack([F.cosine_similarity(z_BD, mean_BD, dim=1).mean() for z_BD in z_views]).mean()
    rate = torch.stack([coding_rate(z_BD) for z_BD in z_views]).mean()
    return -200 * similarity - rate


def reference_training(
    encoder: nn.Module,
    lars: ReferenceLars,
    scheduler: torch.optim.lr_scheduler.LRScheduler | None,
    minibatches: Iterator[list[Tensor]],
    *,
    device: torch.device,
    replays: int = 3,
    epsilon: float = 8 / 255,
    step_size: float = 0.01,
) -> Iterator[float]:
    """Free adversarial training as published; the loss of each minibatch's last replay."""
    delta = None
    for crops_views in minibatches:
        crops_XCHW = torch.cat(list(crops_views)).to(device)
        if delta is None:
            delta = torch.zeros_like(crops_XCHW, requires_grad=True)
        for _ in range(replays):
            lars.sgd.zero_grad()
            loss = reference_loss(encoder(crops_XCHW + delta), len(crops_views))
            loss.backward()
            lars.step()
            if scheduler is not None:
                scheduler.step()
            assert delta.grad is not None
            moved = (delta.detach() + step_size * delta.grad.sign()).clamp(-epsilon, epsilon)
            delta.data = (crops_XCHW + moved).clamp(0, 1) - crops_XCHW
            delta.grad.zero_()
        yield loss.item()
