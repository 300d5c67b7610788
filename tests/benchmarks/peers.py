"""What our speed is measured against: the same work, written plainly but well, without nbutils."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from nbutils.networks import SplitClassifier
from nbutils.paradigms import Augmentation, ContrastiveEncoder, Encoder
from nbutils.paradigms.ddpm import DiffusionEncoder
from nbutils.paradigms.mae import MaskedEncoder, positions
from nbutils.torchvision import torchvision

with warnings.catch_warnings():  # foolbox uses an old name of scipy
    warnings.simplefilter("ignore", DeprecationWarning)
    import foolbox

transforms = torchvision.transforms
Network = TypeVar("Network", bound=nn.Module)

def bare_gradients(model: nn.Module, x: Tensor, y: Tensor, steps: int) -> None:
    """`steps` times forward and input backward, and nothing else: what no gradient attack can do without.

    Args:
        model: in evaluation mode, its parameters without gradients. x: (B, 3, H, W). y: (B,).
    """
    x = x.detach().requires_grad_()
    for _ in range(steps):
        torch.autograd.grad(F.cross_entropy(model(x), y, reduction="sum"), x)


def bare_matching(model: SplitClassifier, x: Tensor, steps: int) -> None:
    """`steps` times forward to the pooled features and input backward, and nothing else."""
    wanted, x = torch.zeros(()), x.detach().requires_grad_()
    for _ in range(steps):
        torch.autograd.grad((model.features(x, "pool") - wanted).flatten(1).norm(dim=1).sum(), x)


def matching_with_two_forwards(model: SplitClassifier, x: Tensor, steps: int) -> Tensor:
    """D_NR of images x (B, 3, H, W) with one pass for the value of the loss and another one for its gradient."""
    with torch.no_grad():
        wanted = model.features(x, "pool")
    x = x.flip(0)
    for _ in range(steps):
        with torch.no_grad():
            (model.features(x, "pool") - wanted).norm(dim=1)
        x = x.requires_grad_()
        (gradient,) = torch.autograd.grad((model.features(x, "pool") - wanted).norm(dim=1).sum(), x)
        length = torch.linalg.vector_norm(gradient, dim=(1, 2, 3), keepdim=True).clamp_min(1e-18)
        x = (x.detach() - 0.1 * gradient / length).clamp(0, 1)
    return x


def plain_pgd(model: nn.Module, x: Tensor, y: Tensor, eps: float, step_size: float, steps: int,
              random_start: bool = True, backward: bool = False) -> Tensor:
    """L_inf PGD as it stands in most training scripts; the last iterate (B, 3, H, W).

    Args:
        x: (B, 3, H, W), pixels in [0, 1]. y: (B,). eps, step_size: in pixel units.
        backward: call `loss.backward()`, which also computes the parameters' gradients, not `autograd.grad`.
    """
    x_adv = (x + torch.empty_like(x).uniform_(-eps, eps)).clamp_(0, 1) if random_start else x.clone()
    for _ in range(steps):
        x_adv.requires_grad_()
        loss = F.cross_entropy(model(x_adv), y)
        if backward:
            loss.backward()
            gradient = x_adv.grad
        else:
            (gradient,) = torch.autograd.grad(loss, x_adv)
        with torch.no_grad():
            x_adv = x_adv.detach() + step_size * gradient.sign()
            x_adv = torch.min(torch.max(x_adv, x - eps), x + eps).clamp(0, 1)
    return x_adv


def foolbox_pgd(model: nn.Module, x: Tensor, y: Tensor, eps: float, steps: int) -> Callable[[], Tensor]:
    """foolbox's LinfPGD as its manual calls it; each call searches again and gives (B, 3, H, W)."""
    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device=x.device)
    attack = foolbox.attacks.LinfPGD(steps=steps)
    return lambda: attack(wrapped, x, y, epsilons=eps)[1]


class Photographs(Dataset):
    """8-bit images (N, H, W, 3) with labels (N,), each decoded and transformed when it is asked for."""

    def __init__(self, pixels: np.ndarray, labels: np.ndarray, transform: Callable | None = None) -> None:
        self.pixels, self.labels = pixels, labels
        self.transform = transform or transforms.Compose([
            transforms.ToPILImage(), transforms.RandomCrop(pixels.shape[1], padding=pixels.shape[1] // 8),
            transforms.RandomHorizontalFlip(), transforms.ToTensor()])

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(self.pixels[index]), int(self.labels[index])


def plain_epoch(model: Network, loader: DataLoader, loss: Callable[[Network, Tensor, Tensor], Tensor]) -> None:
    """One epoch of SGD, on the device where the model is."""
    device = next(model.parameters()).device
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    model.train()
    for images, labels in loader:
        value = loss(model, images.to(device), labels.to(device))
        optimizer.zero_grad()
        value.backward()
        optimizer.step()


def plain_training_epoch(model: nn.Module, photographs: Photographs, eps: float, steps: int, batch_size: int,
                         backward: bool, workers: int = 0) -> None:
    """One epoch of PGD adversarial training with SGD, on the device where the model is.

    Args:
        backward: see `plain_pgd`. workers: processes that transform images; 0 is the DataLoader's default.
    """
    def loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        model.eval()
        x_adv = plain_pgd(model, x, y, eps, 2.5 * eps / steps, steps, backward=backward)
        model.train()
        return F.cross_entropy(model(x_adv), y)

    plain_epoch(model, DataLoader(photographs, batch_size, shuffle=True, num_workers=workers), loss)


class TwoViews:
    """SimCLR's augmentation by torchvision: two views (2, 3, side, side) of one 8-bit image (side, side, 3)."""

    def __init__(self, view: Augmentation, side: int) -> None:
        jitter = transforms.ColorJitter(view.brightness, view.contrast, view.saturation, view.hue)
        self.once = transforms.Compose([
            transforms.ToPILImage(), transforms.RandomResizedCrop(side, view.scale),
            transforms.RandomHorizontalFlip(view.flip), transforms.RandomApply([jitter], view.jitter),
            transforms.RandomGrayscale(view.grey), transforms.ToTensor()])

    def __call__(self, pixels: np.ndarray) -> Tensor:
        return torch.stack([self.once(pixels), self.once(pixels)])


TEMPERATURE = 0.2
MASK = 0.75  # share of the patches that is hidden
ALPHA_BAR = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000), 0)


def supervised_loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy."""
    return F.cross_entropy(model(x), y)


def contrastive_loss(model: ContrastiveEncoder, x: Tensor, y: Tensor) -> Tensor:
    """NT-Xent of x (B, 2, 3, H, W), two views of each image."""
    z = F.normalize(model.project(torch.cat([x[:, 0], x[:, 1]])))
    cosines = (z @ z.T / TEMPERATURE).fill_diagonal_(-torch.inf)
    first = torch.arange(len(x), device=x.device)
    return F.cross_entropy(cosines, torch.cat([first + len(x), first]))


def masked_loss(model: MaskedEncoder, x: Tensor, y: Tensor) -> Tensor:
    """The loss of a masked autoencoder in the usual order: all patches are embedded, most are dropped, all are decoded,
    and the error of those that were visible counts nothing."""
    patches = model.patches(x)
    batch, count, _ = patches.shape
    keep = int(count * (1 - MASK))
    shuffle = torch.rand(batch, count, device=x.device).argsort(dim=1)
    restore = shuffle.argsort(dim=1)
    hidden = torch.ones(batch, count, device=x.device)
    hidden[:, :keep] = 0
    hidden = hidden.gather(1, restore)
    z = model.embed(patches)
    z = z + positions(math.isqrt(count), z.shape[2]).to(z)
    z = z.gather(1, shuffle[:, :keep, None].repeat(1, 1, z.shape[2]))
    z = model.widen(model.encoder(torch.cat([model.cls.expand(batch, -1, -1), z], dim=1)))
    everywhere = torch.cat([z[:, 1:], model.hidden.repeat(batch, count - keep, 1)], dim=1)
    everywhere = everywhere.gather(1, restore[:, :, None].repeat(1, 1, z.shape[2]))
    everywhere = everywhere + positions(math.isqrt(count), z.shape[2]).to(z)
    predicted = model.decoder(torch.cat([z[:, :1], everywhere], dim=1))[:, 1:]
    return (((predicted - patches) ** 2).mean(dim=2) * hidden).sum() / hidden.sum()


def denoising_loss(model: DiffusionEncoder, x: Tensor, y: Tensor) -> Tensor:
    """The loss of a diffusion model: mean squared error of the predicted noise at random timesteps."""
    x0 = model.as_seen(x)
    t = torch.randint(len(ALPHA_BAR), (len(x),), device=x.device)
    noise = torch.randn_like(x0)
    alpha_bar = ALPHA_BAR.to(x.device)[t][:, None, None, None]
    return F.mse_loss(model.layers(alpha_bar.sqrt() * x0 + (1 - alpha_bar).sqrt() * noise, t)["noise"], noise)


def plain_probe(encoder: Encoder, loader: DataLoader, num_classes: int, epochs: int, penalty: float) -> nn.Sequential:
    """A linear head by SGD that runs the encoder in every epoch: BatchNorm without weights, then the head, the rate
    falling as a cosine (the layout of He et al. 2022, who train it for 90 epochs)."""
    head = nn.Sequential(nn.BatchNorm1d(encoder.width, eps=1e-6, affine=False), nn.Linear(encoder.width, num_classes))
    optimizer = torch.optim.SGD(head.parameters(), lr=0.1, momentum=0.9, weight_decay=penalty)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    encoder.eval()
    for _ in range(epochs):
        for x, y in loader:
            with torch.no_grad():
                z = encoder(x)
            loss = F.cross_entropy(head(z), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        schedule.step()
    return nn.Sequential(encoder, head).eval()


def plain_sigma(model: SplitClassifier, z: Tensor, y: Tensor, noise: Iterable[Tensor], at: str, beta: float = 0.3,
                rate: float = 0.1) -> Tensor:
    """(B, C) sigma: equations 3 and 4 of Kim et al. (2021) line by line, by autograd through the whole head.

    Written as well as the plain form allows: the variance is computed once, only lambda asks for gradients, and nothing
    is copied. KL is averaged over channels, the loss summed over images.

    Args:
        model: in evaluation mode, its parameters without gradients.
        z: (B, C, H, W) features at the cut. y: (B,) labels. noise: one (B, C) standard normal draw per iteration.
    """
    variance = z.var((2, 3))
    lambda_ = torch.zeros_like(variance, requires_grad=True)
    optimizer = torch.optim.Adam([lambda_], lr=rate)
    for epsilon in noise:
        sigma = F.softplus(lambda_)
        logits = model.logits_from(z + (sigma * epsilon)[:, :, None, None], at)
        kl = 0.5 * (variance / sigma**2 + (sigma**2 / variance).log() - 1)
        loss = F.cross_entropy(logits, y, reduction="sum") + beta * kl.mean(1).sum()
        (lambda_.grad,) = torch.autograd.grad(loss, lambda_)
        optimizer.step()
    return F.softplus(lambda_.detach())


def matrix_products(side: int, device: str) -> dict[str, Callable[[], Tensor]]:
    """The float32 product of two `side` x `side` matrices, by `@` and as a 1 x 1 convolution: torch hands them to two
    libraries, and which is faster depends on the processor. `side` is a square number."""
    a, b = torch.randn(2, side, side, device=device)
    image = a.view(1, math.isqrt(side), -1, side).permute(0, 3, 1, 2)
    kernel = b.T[:, :, None, None].contiguous(memory_format=torch.channels_last)
    return {"product": lambda: a @ b, "convolution": lambda: F.conv2d(image, kernel)}
