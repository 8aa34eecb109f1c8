"""What networks are made of, and what is done to any of them: activations, rebn batch norm, a head
for rotations, initialisation, scaling.
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


class WithRotations(nn.Module):
    """A network with a second head for four rotations: (N, C, H, W) -> (N, K + 4) logits, classes
    first.

    Used only while training with self-supervision; the head is no layer and is dropped afterwards.
    """

    def __init__(self, base: nn.Module):
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
