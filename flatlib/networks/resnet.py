"""The networks: pixels in [0, 1] outside, normalisation inside, rebn batch norm (spec of Stutz et
al. 2021).
"""

import math
from copy import deepcopy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flatlib.losses import ROTATIONS
from flatlib.weights import branches

ACTIVATIONS = {"relu": F.relu, "silu": F.silu, "mish": F.mish, "gelu": F.gelu}


class ReBatchNorm(nn.BatchNorm2d):
    """Batch norm whose stored scale is gamma - 1, so weight decay pulls the scale to 1 and clipping
    bounds |gamma - 1| ("rebn" of the released code).
    """

    def reset_parameters(self) -> None:
        super().reset_parameters()
        nn.init.zeros_(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(
            x, self.running_mean, self.running_var, 1 + self.weight, self.bias,
            self.training, self.momentum, self.eps,
        )  # fmt: skip


class Block(nn.Module):
    """conv - norm - act - conv - [dropout] - norm, plus the shortcut, then act."""

    def __init__(self, inputs: int, outputs: int, stride: int, activation: str, dropout: float):
        super().__init__()
        self.act = ACTIVATIONS[activation]
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm1 = ReBatchNorm(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm2 = ReBatchNorm(outputs)
        self.dropout = nn.Dropout(dropout)
        self.shortcut = nn.Identity()
        if stride != 1 or inputs != outputs:
            conv = nn.Conv2d(inputs, outputs, 1, stride)  # with bias, as released
            self.shortcut = nn.Sequential(conv, ReBatchNorm(outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = self.act(self.norm1(self.conv1(x)))
        y = self.norm2(self.dropout(self.conv2(y)))
        return self.act(y + self.shortcut(x))


class ResNet(nn.Module):
    """A CIFAR-style ResNet: (N, C, H, W) pixels in [0, 1] -> (N, K) logits.

    ``blocks`` counts the basic blocks per stage; widths double from ``width``, stages after the
    first halve the resolution. ``ResNet()`` is the paper's ResNet-18: 11 174 922 trainable
    parameters. ``mean`` and ``std`` are the training set's, per channel, in pixels.
    """

    def __init__(
        self, blocks=(2, 2, 2, 2), width=64, classes=10, mean=(0.4914, 0.4822, 0.4465),
        std=(0.2470, 0.2435, 0.2616), activation="relu", dropout=0.0,
    ):  # fmt: skip
        super().__init__()
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation={activation!r}: choose one of {sorted(ACTIVATIONS)}")
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1))
        self.act = ACTIVATIONS[activation]
        self.conv = nn.Conv2d(len(mean), width, 3, 1, 1)
        self.norm = ReBatchNorm(width)
        widths = [width * 2**stage for stage in range(len(blocks))]
        stack, inputs = [], width
        for stage, (outputs, count) in enumerate(zip(widths, blocks)):
            for block in range(count):
                stride = 2 if stage > 0 and block == 0 else 1
                stack.append(Block(inputs, outputs, stride, activation, dropout))
                inputs = outputs
        self.blocks = nn.Sequential(*stack)
        self.classify = nn.Linear(inputs, classes)
        self.outputs = classes

    def features(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> pooled features (N, D)."""
        x = (x.clamp(0, 1) - self.mean) / self.std
        x = self.blocks(self.act(self.norm(self.conv(x))))
        return x.mean(dim=(2, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.classify(self.features(x))


class WithRotations(nn.Module):
    """A ResNet with a second head for four rotations: (N, C, H, W) -> (N, K + 4) logits, classes
    first.

    Used only while training with self-supervision; the head is no layer and is dropped afterwards.
    """

    def __init__(self, base: ResNet):
        super().__init__()
        self.base = base
        self.outputs = base.outputs + ROTATIONS
        head = nn.Sequential(
            nn.Linear(base.classify.in_features, 256),
            nn.ReLU(),
            nn.BatchNorm1d(256),
            nn.Linear(256, ROTATIONS),
        )
        head.auxiliary = True
        self.head = head

    def forward(self, x: Tensor) -> Tensor:
        features = self.base.features(x)
        return torch.cat([self.base.classify(features), self.head(features)], dim=1)


@torch.no_grad()
def scaled(model: nn.Module, s: float) -> nn.Module:
    """A copy of ``model`` that computes the same from weights of another size (Stutz et al. 2021,
    App. B): weights and biases of convolutions times s, batch norm's running means times s and
    variances times s^2.

    Norms' own parameters, linear layers and auxiliary branches stay. In eval mode the logits change
    by batch norm's epsilon only, if every convolution is followed by a batch norm.
    """
    if not (math.isfinite(s) and s > 0):
        raise ValueError(f"s={s!r}: a positive factor")
    model = deepcopy(model)
    for _, module in branches(model):
        if isinstance(module, nn.modules.conv._ConvNd):
            for tensor in module.parameters(recurse=False):
                tensor.mul_(s)
        elif isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.mul_(s)
            module.running_var.mul_(s**2)
    return model


def initialise(model: nn.Module, g: torch.Generator) -> nn.Module:
    """He initialisation: convolutions N(0, 2/fan_out), linear N(0, 2/fan_in), biases 0."""
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Conv2d):
                fan = module.out_channels * module.kernel_size[0] * module.kernel_size[1]
            elif isinstance(module, nn.Linear):
                fan = module.in_features
            else:
                continue
            noise = torch.randn(module.weight.shape, generator=g, device=g.device)
            module.weight.copy_(noise * (2 / fan) ** 0.5)
            if module.bias is not None:
                module.bias.zero_()
    return model
