"""The networks that a profile may name, all called ``Network(blocks, width, classes, mean, std,
activation, dropout)``.

Each maps pixels (N, C, H, W) in [0, 1] to logits (N, K), by ``features(x)`` (N, D) and the linear
layer ``classify``; ``outputs`` is K, ``dimension(blocks, width)`` is D.
"""

from flatlib.networks.resnet import ResNet

NETWORKS = {"resnet": ResNet}
