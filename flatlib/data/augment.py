"""Augmentations of a batch, (N, C, H, W) in [0, 1] -> the same shape. Sizes follow the image: on 32
pixels they are the paper's (crop 4, Cutout 16), on 8 pixels a quarter of that.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def crop(x: Tensor, g: torch.Generator, fill: Tensor | float = 0.0) -> Tensor:
    """Pad by H // 8 on every side, then cut a random H x W window per image."""
    n, _, height, width = x.shape
    pad = height // 8
    padded = x.new_zeros(n, x.shape[1], height + 2 * pad, width + 2 * pad) + fill
    padded[:, :, pad : pad + height, pad : pad + width] = x
    top, left = torch.randint(2 * pad + 1, (2, n, 1), generator=g, device=x.device)
    rows = top + torch.arange(height, device=x.device)
    columns = left + torch.arange(width, device=x.device)
    which = torch.arange(n, device=x.device)[:, None, None]
    return padded[which, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2).contiguous()


def shrink(x: Tensor, g: torch.Generator) -> Tensor:
    """What the released code calls crop: pad every side by 0 to H // 8 black pixels, each drawn by
    itself, then resize to H x W. The image shrinks and moves, nothing is cut off.
    """
    height, width = x.shape[2:]
    pads = torch.randint(height // 8 + 1, (len(x), 4), generator=g, device=x.device).tolist()
    padded = [F.pad(image[None], pad) for image, pad in zip(x, pads)]
    return torch.cat([F.interpolate(p, (height, width), mode="bilinear") for p in padded])


def flip(x: Tensor, g: torch.Generator) -> Tensor:
    """Mirror each image left to right with probability 1/2."""
    mirrored = torch.rand(len(x), 1, 1, 1, generator=g, device=x.device) < 0.5
    return torch.where(mirrored, x.flip(3), x)


def crop_mean(x: Tensor, g: torch.Generator) -> Tensor:
    """As ``crop``, filled with the batch's mean colour (before AutoAugment)."""
    return crop(x, g, fill=x.mean(dim=(0, 2, 3), keepdim=True))


def autoaugment(x: Tensor, g: torch.Generator) -> Tensor:
    """AutoAugment's CIFAR-10 policy image by image, through torchvision (Cubuk et al. 2019).

    torchvision draws from torch's global generator: it is seeded from ``g`` inside a fork and given
    back.
    """
    from flatlib.vision import transforms

    policy = transforms.AutoAugment(transforms.AutoAugmentPolicy.CIFAR10)
    seed = int(torch.randint(2**31, (1,), generator=g, device=g.device))
    pixels = (x * 255).round().to("cpu", torch.uint8)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        pixels = torch.stack([policy(image) for image in pixels])
    return (pixels.float() / 255).to(x.device)


def cutout(x: Tensor, g: torch.Generator) -> Tensor:
    """One square hole of side H // 2 per image, its centre anywhere, filled with the batch's mean
    colour.
    """
    n, _, height, width = x.shape
    hole = height // 2
    y0, x0 = (torch.randint(side, (n, 1), generator=g, device=x.device) for side in (height, width))
    rows = (torch.arange(height, device=x.device) - y0 + hole // 2).clamp(-1, hole)
    columns = (torch.arange(width, device=x.device) - x0 + hole // 2).clamp(-1, hole)
    inside = ((rows >= 0) & (rows < hole))[:, None, :, None] & ((columns >= 0) & (columns < hole))[
        :, None, None
    ]
    return torch.where(inside, x.mean(dim=(0, 2, 3), keepdim=True), x)


AUGMENTATIONS = {
    "crop": crop, "shrink": shrink, "flip": flip, "crop-mean": crop_mean,
    "autoaugment": autoaugment, "cutout": cutout,
}  # fmt: skip
