"""Small networks that Python can run and a trace cannot say, each in one way, and what they are."""

import random

import torch
import torch.nn.functional as F
from torch import nn

SCALE = 2.0


class Net(nn.Module):
    """A convolution with batch norm on three channels; subclasses say what is awkward."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 10)

    def body(self, x):
        return F.silu(self.norm(self.conv(x)))

    def forward(self, x):
        return self.head(self.body(x).mean((2, 3)))


class Rounding(torch.autograd.Function):
    """To 15 steps; the gradient passes straight through."""

    @staticmethod
    def forward(ctx, x):
        return (x * 15).round() / 15

    @staticmethod
    def backward(ctx, g):
        return g


class Reversal(torch.autograd.Function):
    """Nothing, with the gradient turned round: no operation for a trace to see."""

    @staticmethod
    def forward(ctx, x):
        return x

    @staticmethod
    def backward(ctx, g):
        return -g


class StraightThrough(Net):
    def forward(self, x):
        return super().forward(Rounding.apply(x))


class Reversed(Net):
    def forward(self, x):
        return self.head(Reversal.apply(self.body(x)).mean((2, 3)))


class NoGradBlock(Net):
    def forward(self, x):
        with torch.no_grad():
            step = (x * 15).round() / 15 - x
        return super().forward(x + step)


class Detached(Net):
    def forward(self, x):
        return super().forward(x + ((x * 15).round() / 15 - x).detach())


class AutocastBlock(Net):
    def forward(self, x):
        with torch.autocast("cpu", torch.bfloat16):
            h = self.body(x)
        return self.head(h.to(x.dtype).mean((2, 3)))


class IntegerBuffer(Net):
    def __init__(self):
        super().__init__()
        self.register_buffer("order", torch.randperm(32), persistent=False)
        self.register_buffer("mask", torch.rand(32) > 0.3)

    def forward(self, x):
        return super().forward(x[..., self.order[: x.shape[-1]]] * self.mask[0])


class Temperature(Net):
    def __init__(self):
        super().__init__()
        self.register_buffer("temperature", torch.tensor(1.0))

    def forward(self, x):
        return super().forward(x) / self.temperature.item()


class Switch(Net):
    def __init__(self):
        super().__init__()
        self.register_buffer("on", torch.tensor(False))

    def forward(self, x):
        return super().forward(x) / (4 if self.on else 1)


class ListedBuffers(Net):
    """Reads a buffer in a way that no trace follows."""

    def __init__(self):
        super().__init__()
        self.register_buffer("temperature", torch.tensor(1.0))

    def forward(self, x):
        return super().forward(x) / dict(self.named_buffers())["temperature"].item()


class PythonNoise(Net):
    """So little that measures can be compared."""

    def forward(self, x):
        return super().forward(x) * random.choice([1.0, 1.0 + 1e-12])


class Counting(Net):
    """Takes turns between two ways to the same."""

    def __init__(self):
        super().__init__()
        self.passes = 0

    def forward(self, x):
        self.passes += 1
        return super().forward(x) * (1 if self.passes % 2 else 1.0)


class ReadsGlobal(Net):
    def forward(self, x):
        return super().forward(x) * SCALE


class Settings:
    """An object of one's own."""

    def __init__(self, scale):
        self.scale = scale


class ReadsObject(Net):
    def __init__(self):
        super().__init__()
        self.settings = Settings(2.0)

    def forward(self, x):
        return super().forward(x) * self.settings.scale


class Caching(Net):
    """Keeps what it computed, in itself and in a module below."""

    def __init__(self):
        super().__init__()
        self.latest = None

    def forward(self, x):
        self.latest = self.body(x)
        self.head.seen = self.latest.mean((2, 3))
        return self.head(self.head.seen)


class KeywordCall(Net):
    def forward(self, x):
        return self.head(input=self.norm(input=self.conv(input=x)).mean(dim=(2, 3)))


class OtherKinds(Net):
    def forward(self, x):
        return super().forward(x if isinstance(x, torch.Tensor) else x["image"])


class FiveDimensions(Net):
    def forward(self, x):
        h = self.body(x).unflatten(1, (2, 2)).transpose(1, 3)
        return self.head(h.mean(dim=(2, 3)).flatten(1)[:, :4])


class WritesIntoItsInput(Net):
    def forward(self, x):
        return super().forward(x.sub_(0.5).div_(0.25))


class WeightNormed(Net):
    def __init__(self):
        super().__init__()
        self.conv = nn.utils.parametrizations.weight_norm(self.conv)


class SpectrallyNormed(Net):
    def __init__(self):
        super().__init__()
        self.conv = nn.utils.parametrizations.spectral_norm(self.conv)


class Tied(Net):
    def __init__(self):
        super().__init__()
        self.other = nn.Linear(4, 4)
        self.again = nn.Linear(4, 4)
        self.again.weight = self.other.weight

    def forward(self, x):
        return self.head(torch.tanh(self.again(self.other(self.body(x).mean((2, 3))))))


class Hooked(Net):
    def __init__(self):
        super().__init__()
        self.norm.register_forward_hook(_double)


def _double(module, inputs, output):
    return 2 * output


class Fourier(Net):
    """Complex weights."""

    def __init__(self):
        super().__init__()
        self.phase = nn.Parameter(torch.randn(4, 1, 1, dtype=torch.complex64))

    def forward(self, x):
        h = torch.fft.fft2(self.body(x)) * self.phase
        return self.head(torch.fft.ifft2(h).real.mean((2, 3)))


class Encoder(nn.Module):
    """PyTorch's own transformer layer, which has a fast path of its own."""

    def __init__(self):
        super().__init__()
        self.cut = nn.Conv2d(3, 8, 8, 8)
        self.encode = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True)
        self.head = nn.Linear(8, 10)

    def forward(self, x):
        return self.head(self.encode(self.cut(x).flatten(2).transpose(1, 2)).mean(1))


class Attention(nn.Module):
    """Fused attention as a function."""

    def __init__(self):
        super().__init__()
        self.cut, self.mix = nn.Conv2d(3, 8, 8, 8), nn.Linear(8, 24)
        self.head = nn.Linear(8, 10)

    def forward(self, x):
        t = self.cut(x).flatten(2).transpose(1, 2)
        q, k, v = self.mix(t).unsqueeze(1).chunk(3, -1)
        return self.head((t + F.scaled_dot_product_attention(q, k, v).squeeze(1)).mean(1))


FOLLOWED = [Net, Detached, IntegerBuffer, Temperature, KeywordCall, FiveDimensions,
            ReadsGlobal, ReadsObject, Caching, Fourier, Attention]  # fmt: skip
PLAIN = {
    StraightThrough: "autograd function", Reversed: "gradients for the images",
    NoGradBlock: "gradient mode", AutocastBlock: "gradient mode", Switch: "cannot be traced",
    ListedBuffers: "outside the graph", PythonNoise: "random numbers", Counting: "another course",
    WeightNormed: "ParametrizedConv2d", SpectrallyNormed: "ParametrizedConv2d",
    Tied: "two names", Hooked: "hooks", Encoder: "MultiheadAttention",
    OtherKinds: "its graph fails",
}  # fmt: skip
