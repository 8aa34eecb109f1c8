"""Speed, behind one seam: ``freeze`` and ``fast`` give a network as a function, made fast.

Attacks, measures and training call them; nothing else knows how it is done. The network is traced
once into a graph whose convolutions take their tensors from a dict and lie channels-last. In eval
mode batch norm is an affine map, which folds into the convolution before it or stands alone; a new
weight set then costs one fold. The graph is compared with the network on the first images that it
is given; a network that cannot be traced, or whose graph does otherwise, runs as it is:
``why_plain`` says why.
"""

from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from flatlib import checks
from flatlib.fast.plans import Plan, channels_last, plan_of
from flatlib.weights import Weights, all_tensors, as_function, detached, fixed

PRECISIONS = {"float32": None, "bf16": torch.bfloat16}  # None: the model's own


@contextmanager
def exact():
    """Float32 in full while the block runs, for numbers that are reported: no TF32, PyTorch's
    default for convolutions on a GPU. Steps of attacks and of training keep the user's setting.
    """
    read, write, full = _switches()
    before = read()
    try:
        write(full)
        yield
    finally:
        write(before)


def _switches():
    """How the precision of float32 on a GPU is read and written, and its value in full.

    PyTorch has two generations of names for it that must not be mixed: the older ones cannot be
    read once the user has set the newer ones.
    """
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul

    def older(values: tuple | None = None):
        if values:
            cudnn.allow_tf32 = values[0]
        if values and values[1] != torch.get_float32_matmul_precision():
            torch.set_float32_matmul_precision(values[1])
        return cudnn.allow_tf32, torch.get_float32_matmul_precision()

    def newer(values: tuple | None = None):
        parts = (cudnn.conv, cudnn.rnn, matmul)
        for part, value in zip(parts, values or ()):
            part.fp32_precision = value
        return tuple(part.fp32_precision for part in parts)

    if not torch.cuda.is_available():  # nothing to read or write
        return tuple, tuple, ()
    try:
        older(), matmul.allow_tf32
    except RuntimeError:
        return newer, newer, ("ieee",) * 3
    return older, older, (False, "highest")


def freeze(
    model: nn.Module, w: Weights | None = None, precision: str = "float32", recorded: bool = False
):
    """x (N, C, H, W) -> logits (N, K) of ``model`` with the weights ``w`` (its own if None) fixed.

    No gradient reaches the weights; the one for x passes. Equal to the model up to rounding, that
    of float32 or, for an attack's gradient steps only, of "bf16". Freeze in the mode that is
    wanted, and anew when weights or statistics have changed. ``recorded`` replays CUDA graphs, one
    per shape of x: on a GPU, in eval mode, without control flow, every forward pass followed by its
    backward pass (see ``graphs``).
    """
    dtype, plan = _dtype(precision), _usable(model, _dtype(precision))
    tensors = detached(all_tensors(model, w))
    if recorded and (plan is None or plan.kept):
        raise ValueError("recorded=True: a network in eval mode wanted that tracing can follow")
    if recorded and not all(tensor.is_cuda for tensor in tensors.values()):
        raise ValueError("recorded=True: CUDA graphs want the model and its weights on a GPU")
    plain = _autocast(fixed(model, w), dtype)
    if plan is None or plan.kept:
        return plain
    with torch.no_grad():
        folded = plan.fold(tensors, dtype)
    run = plan.recorder(dtype) if recorded else partial(plan, dtype=dtype)
    trusted = _once(lambda x: plan.trusted(model, tensors, x, dtype))
    return lambda x: run(folded, x) if trusted(x) else plain(x)


def fast(model: nn.Module, precision: str = "float32"):
    """f(w, x) -> logits (N, K), what ``as_function(model)`` gives, up to rounding.

    Gradients reach ``w``, ``x`` and the model's other parameters: folding is differentiated too.
    The model's mode counts when ``fast`` is called; in train mode batch norm works as ever.
    """
    dtype, plan = _dtype(precision), _usable(model, _dtype(precision))
    plain = _autocast(as_function(model), dtype)
    if plan is None:
        return plain
    others = all_tensors(model)
    trusted = _once(lambda w, x: plan.trusted(model, {**others, **w}, x, dtype))

    def planned(w: Weights, x: Tensor) -> Tensor:
        if not trusted(w, x):  # its own convolutions want contiguous weights, see laid_out
            return plain({k: v.contiguous() for k, v in w.items()}, x)
        if plan.kept and not plan.kept.isdisjoint(w):
            return plain(w, x)
        return plan(plan.fold({**others, **w}, dtype), x, dtype)

    return planned


def why_plain(model: nn.Module) -> str | None:
    """Why ``model``, in its present mode, runs as it is and not in a fast form; None if it has one
    that has not been refuted.
    """
    plan = plan_of(model)
    return plan.refusal() if isinstance(plan, Plan) else plan


def laid_out(model: nn.Module, w: Weights) -> Weights:
    """The same values in the order that the fast form of ``model`` wants them in memory: what need
    not be copied there at every step. Where a network has no fast form nothing changes: its own
    convolutions are not called with weights channels-last (see ``graphs._take_over``).
    """
    plan = _usable(model)
    if plan is None or plan.kept:
        return w
    return {k: channels_last(v) if v.ndim == 4 else v for k, v in w.items()}


def _usable(model: nn.Module, dtype: torch.dtype | None = None) -> Plan | None:
    """The plan of ``model``, unless it has been refuted."""
    plan = plan_of(model)
    return plan if isinstance(plan, Plan) and plan.refusal(dtype) is None else None


def _once(decide):
    """The first answer of ``decide``, whatever is asked later."""
    answers = []

    def answer(*asked) -> bool:
        if not answers:
            answers.append(decide(*asked))
        return answers[0]

    return answer


def _autocast(f, dtype: torch.dtype | None):
    """``f``, whose last argument are images, in autocast where a precision is asked for."""
    if dtype is None:
        return f

    def cast(*inputs) -> Tensor:
        with torch.autocast(inputs[-1].device.type, dtype):
            return f(*inputs).to(inputs[-1].dtype)

    return cast


def _dtype(precision: str) -> torch.dtype | None:
    checks.choice("precision", precision, PRECISIONS)
    return PRECISIONS[precision]


def unaccelerated(model: nn.Module) -> tuple[str, ...]:
    """A note for a report if ``model`` ran as it is, without its fast form."""
    why = why_plain(model)
    return () if why is None else (f"unaccelerated: {why}",)
