"""What the machine must do at least: convolutions counted, and timed alone in their best layout."""

import time
from collections import Counter
from dataclasses import dataclass, field
from functools import cache

import torch
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16}


class Work(TorchDispatchMode):
    """Counts what is really computed while it is active, whoever computes it.

    ``flops``: 2 x multiply-adds of convolutions and matrix products. ``losses`` and ``gradients``:
    evaluations and gradients of a cross-entropy. ``convolutions``: shapes of forward convolutions.
    """

    def __init__(self):
        super().__init__()
        self.flops, self.losses, self.gradients = 0, 0, 0
        self.convolutions: Counter = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        packet = func.overloadpacket
        if packet is aten.convolution:
            self.flops += _flops(args[0], args[1], out, args[6])
            geometry = (*map(tuple, args[3:6]), args[8])
            shapes = tuple(args[0].shape), tuple(args[1].shape)
            self.convolutions[(*shapes, geometry)] += 1
        elif packet is aten.convolution_backward:
            wanted = sum(args[10][:2])
            self.flops += wanted * _flops(args[1], args[2], args[0], args[7])
        elif packet in (aten.mm, aten.addmm):
            a, b = args[-2:]
            self.flops += 2 * a.shape[0] * a.shape[1] * b.shape[1]
        elif packet is aten._log_softmax:
            self.losses += 1
        elif packet is aten._log_softmax_backward_data:
            self.gradients += 1
        return out


def _flops(x, weight, out, transposed: bool) -> int:
    """2 x multiply-adds of a convolution; both its gradients cost the same."""
    positions = (x if transposed else out).numel()
    return 2 * positions * weight.numel() // weight.shape[0]


@dataclass(frozen=True)
class Passes:
    """Least numbers of passes through a network: forward, gradient of the input, of the weights.

    ``steps`` may be taken at low precision, ``exact`` must be float32.
    """

    steps: tuple[int, int, int] = (0, 0, 0)
    exact: tuple[int, int, int] = field(default=(0, 0, 0))


@torch.no_grad()
def shapes(model, x) -> tuple[Counter, int]:
    """The convolutions of one forward pass, and its operations with the linear layer."""
    with Work() as work:
        model(x)
    return work.convolutions, work.flops


def clock() -> float:
    """Seconds, when all that was asked for is done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


@cache
def _seconds(shape, precision: str, repeats: int, device: str) -> tuple[float, ...]:
    """Time of one convolution: forward, gradient of the input, of the weights; best layout each."""
    layouts = (torch.contiguous_format, torch.channels_last)
    times = [_seconds_in(layout, shape, DTYPES[precision], repeats, device) for layout in layouts]
    return tuple(map(min, zip(*times)))


def _seconds_in(layout, shape, dtype, repeats: int, device: str) -> list[float]:
    size, kernel, (stride, padding, dilation, groups) = shape
    if kernel[2:] == (1, 1) and padding == (0, 0):  # as flatlib does, see graphs._take_over
        size = (*size[:2], *(-(-n // step) for n, step in zip(size[2:], stride)))
        stride = (1, 1)
    x, w = (torch.rand(s, device=device).to(dtype, memory_format=layout) for s in (size, kernel))
    fixed = (stride, padding, dilation, False, [0, 0], groups)
    up = aten.convolution(x, w, None, *fixed).to(memory_format=layout)
    calls = (
        lambda: aten.convolution(x, w, None, *fixed),
        lambda: aten.convolution_backward(up, x, w, None, *fixed, [True, False, False]),
        lambda: aten.convolution_backward(up, x, w, None, *fixed, [False, True, False]),
    )
    return [_median(call, repeats) for call in calls]


def _median(call, repeats: int) -> float:
    call()
    times = []
    for _ in range(repeats):
        started = clock()
        call()
        times.append(clock() - started)
    return sorted(times)[len(times) // 2]


def matrix_rate(device: str, size: int = 8192, repeats: int = 11) -> float:
    """TFLOP/s of a product of two random bf16 matrices: what the device does at its best."""
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    return 2 * size**3 / _median(lambda: a @ b, repeats) / 1e12


class Floor:
    """Seconds that the convolutions of a network take by themselves on this machine."""

    def __init__(self, model, x, repeats: int = 7):
        convolutions, self.flops = shapes(model, x)
        in_convolutions = sum(_shape_flops(s) * n for s, n in convolutions.items())
        rest = self.flops / in_convolutions  # the linear layer, at the rate of the convolutions
        self.passes = {}
        for p in DTYPES:
            alone = [(_seconds(s, p, repeats, str(x.device)), n) for s, n in convolutions.items()]
            self.passes[p] = [rest * sum(t[kind] * n for t, n in alone) for kind in range(3)]

    def seconds(self, least: Passes, precision: str) -> float:
        steps = sum(n * t for n, t in zip(least.steps, self.passes[precision]))
        return steps + sum(n * t for n, t in zip(least.exact, self.passes["float32"]))

    def rate(self, precision: str) -> float:
        """GFLOP/s of one forward pass and the gradient of the input."""
        forward, backward, _ = self.passes[precision]
        return 2 * self.flops / (forward + backward) / 1e9


def _shape_flops(shape) -> int:
    size, kernel, (stride, padding, dilation, groups) = shape
    x, w = torch.empty(size, device="meta"), torch.empty(kernel, device="meta")
    out = torch.nn.functional.conv2d(x, w, None, stride, padding, dilation, groups)
    return _flops(x, w, out, False)
