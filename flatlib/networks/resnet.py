"""CIFAR-style ResNets: pixels in [0, 1] outside, normalisation inside, rebn batch norm (Stutz et
al. 2021).
"""

import torch
from torch import Tensor, nn

from flatlib.networks.parts import ACTIVATIONS, ReBatchNorm


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

    @staticmethod
    def dimension(blocks, width: int) -> int:
        """How many features the classifier of such a network sees."""
        return width * 2 ** (len(blocks) - 1)

    def features(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> pooled features (N, D)."""
        x = (x.clamp(0, 1) - self.mean) / self.std
        x = self.blocks(self.act(self.norm(self.conv(x))))
        return x.mean(dim=(2, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.classify(self.features(x))
