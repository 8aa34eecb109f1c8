"""Any model as one that measures can rely on: an ``nn.Module`` that leaves its images alone and
gives finite logits (N, K) in their type. It is tried on a few images; nothing of it is changed.
"""

import copy
import inspect
from collections import OrderedDict
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from flatlib.modes import mode
from flatlib.streams import undisturbed
from flatlib.weights import bare, layers

BLACK_BOX = "A black-box attack needs none: AutoAttack(attacks=('square',))"
_HALF = {torch.float16, torch.bfloat16}


class Function(nn.Module):
    """A function or a scripted module: measured as it is, its weights out of reach.

    Modules that the function is made of (a bound method's own, those in its closure) take part in
    eval mode.
    """

    def __init__(self, f):
        super().__init__()
        self.inside = nn.ModuleList(m for m in _modules(f) if hasattr(m, "training"))
        self.forward = lambda x: f(x)  # as an attribute it is not traced (see ``fast.forward``)

    def named_parameters(self, prefix="", recurse=True, remove_duplicate=True):
        """None: they cannot be exchanged."""
        return iter(())

    def named_buffers(self, prefix="", recurse=True, remove_duplicate=True):
        """None, as for parameters."""
        return iter(())


def _modules(f) -> list[nn.Module]:
    """The modules that a callable is made of, as far as can be seen."""
    if isinstance(f, nn.Module):
        return [f]
    if isinstance(f, partial):
        return [m for part in (f.func, *f.args, *f.keywords.values()) for m in _modules(part)]
    if not inspect.isfunction(inspect.unwrap(getattr(f, "__func__", f))):
        return []
    names = inspect.getclosurevars(inspect.unwrap(getattr(f, "__func__", f)))
    seen = (getattr(f, "__self__", None), *names.nonlocals.values(), *names.globals.values())
    return [m for m in seen if isinstance(m, nn.Module)]


def module(model) -> nn.Module:
    """``model`` as a module: the one inside ``DataParallel``, a ``Function`` for what is none."""
    if isinstance(model, type) or not callable(model):
        raise ValueError(
            f"model={model!r}: a torch.nn.Module or a function from images to logits wanted"
        )
    if not isinstance(model, nn.Module):
        return Function(model)
    model = bare(model)
    scripted = any(isinstance(m, torch.jit.ScriptModule) for m in model.modules())
    if scripted:
        return Function(model)
    try:
        with mode(model, training=False):
            return model
    except NotImplementedError as error:  # an exported program has the mode it was exported in
        raise ValueError(f"model: cannot be put into eval mode ({error})") from error


def exchangeable(model: nn.Module) -> None:
    """Refuse a model whose weights are out of reach."""
    if isinstance(model, Function):
        raise ValueError(
            "model: the weights of a function or a scripted module cannot be exchanged: give the "
            "nn.Module that it was made of"
        )


def tensors(model: nn.Module) -> list[Tensor]:
    """All parameters and buffers, those inside a ``Function`` too, that have values yet."""
    parts = [part for m in model.modules() for part in (m.parameters(False), m.buffers(False))]
    return [tensor for part in parts for tensor in part if not is_lazy(tensor)]


def device(model: nn.Module) -> torch.device | None:
    """Where the model begins, if it has tensors."""
    return next((tensor.device for tensor in tensors(model)), None)


def near(model: nn.Module, x: Tensor) -> None:
    """Refuse images on another device than the model."""
    places = {tensor.device for tensor in tensors(model)}
    if places and x.device not in places:
        place = device(model)
        raise ValueError(f"model on {place}, x on {x.device}: x.to('{place}') or model.to(...)")


@torch.no_grad()
def adapted(
    model: nn.Module, x: Tensor, images: bool = False, weights: bool = False
) -> tuple[nn.Module, Tensor, int, list[str]]:
    """(model, x, K, notes), tried on two images: a model for images ``x`` of float32 or float64.

    ``images`` and ``weights`` say which gradients must be there. Refused with a ValueError that
    begins with "model": no logits (N, K), values that are not finite, a missing gradient.
    """
    x, notes = _typed(model, x)
    if any(tensor.is_inference() for tensor in tensors(model)):  # these would refuse gradients
        model = _copied(model)
    with mode(model, training=False), undisturbed(x.device):
        model, tried, more = _halves(model, x[:2], images, weights)
        _sound(model, tried, x[:2])
        single = _single(model, x)
    if tried.wrote:
        more.append("the model writes into its images: it is given copies")
    model = _twin(model, tried.wrote, single or tried.z.dtype != x.dtype)
    if tried.missing:
        raise ValueError(f"model: {tried.missing}. {BLACK_BOX if images else ''}".strip())
    return model, x, tried.z.shape[-1], notes + more


def _typed(model: nn.Module, x: Tensor) -> tuple[Tensor, list[str]]:
    """The images in the type that the model is measured in: float32, or float64 where it is the
    model's.
    """
    own = {tensor.dtype for tensor in tensors(model) if tensor.is_floating_point()}
    double = torch.float64 in own and torch.float32 not in own
    if double or (x.dtype == torch.float64 and (torch.float64 in own or not own)):
        return x.double(), ["measured in float64"]
    if x.dtype == torch.float32:
        return x, []
    return x.float(), [f"images of {_name(x.dtype)}, measured in float32"]


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


class _Tried(NamedTuple):
    """What a forward pass, and a backward pass if wanted, showed."""

    z: object  # the output
    wrote: bool  # into its input
    missing: str = ""  # which gradient does not arrive, and why


def _halves(model: nn.Module, x: Tensor, images: bool, weights: bool):
    """(model, what it showed, notes). A model of half precision that does not convert its images
    itself is measured as a float32 copy of it.
    """
    half = _HALF & {p.dtype for p in tensors(model)}
    if not half:
        return model, _tried(model, x, images, weights), []
    kind = " and ".join(sorted(map(_name, half)))
    try:
        own = f"weights of {kind}: gradients and logits are as precise as the model makes them"
        return model, _tried(model, x, images, weights), [own]
    except ValueError:
        note = f"model of {kind}: measured in float32, as a copy of it"
        copied = _copied(model).to(x.dtype)
        return copied, _tried(copied, x, images, weights), [note]


def _copied(model: nn.Module) -> nn.Module:
    """A copy with weights of its own, for another precision or outside inference mode."""
    if isinstance(model, Function):
        raise ValueError(
            "model: a function or scripted module of half precision or of inference tensors "
            "cannot be copied in float32: give the nn.Module that it was made of"
        )
    try:
        return copy.deepcopy(model)
    except Exception as error:  # whatever copying does to somebody's attributes
        raise ValueError(f"model: cannot be copied ({error})") from error


def _tried(model: nn.Module, x: Tensor, images: bool, weights: bool) -> _Tried:
    """A pass over ``x``, with gradients if they are wanted and the model bears them."""
    if not (images or weights):
        return _passed(model, x.clone())
    try:
        return _with_gradient(model, x, images, weights)
    except Exception as error:  # perhaps of the gradient alone: else the next line says so
        return _passed(model, x.clone())._replace(missing=f"no gradient can be taken ({error})")


def _passed(model: nn.Module, handed: Tensor) -> _Tried:
    before, version = handed.detach().clone(), handed._version
    try:
        z = model(handed)
    except Exception as error:  # whatever a forward pass does to images
        layout = ""
        if handed.shape[-1] in (1, 3) and handed.shape[1] not in (1, 3):
            layout = "; channels come second: x.permute(0, 3, 1, 2)"
        raise ValueError(
            f"model: no logits for images {tuple(handed.shape)}: {error}{layout}"
        ) from error
    return _Tried(z, handed._version != version or not torch.equal(handed, before))


@torch.enable_grad()
def _with_gradient(model: nn.Module, x: Tensor, images: bool, weights: bool) -> _Tried:
    point = x.clone().requires_grad_(images)
    tried = _passed(model, point * 1)
    z = tried.z
    if not isinstance(z, Tensor) or not z.is_floating_point():
        return tried
    wanted = [point] * images + list(layers(model).values()) * weights
    grads = [None] * len(wanted)
    if z.requires_grad:
        grads = torch.autograd.grad(z.sum(), wanted, allow_unused=True)
    tried = tried._replace(z=z.detach())
    if images and grads[0] is None:
        return tried._replace(missing="no gradient reaches the images")
    if weights and all(g is None for g in grads[images:]):
        return tried._replace(missing="no gradient reaches the weights")
    return tried


def _sound(model: nn.Module, tried: _Tried, x: Tensor) -> None:
    """Refuse what are no logits (N, K), and logits that are not finite."""
    z, n = tried.z, len(x)
    if not isinstance(z, Tensor):
        raise ValueError(
            f"model: logits of shape (N, K) with K >= 2 wanted, got {type(z).__name__} for N = {n}:"
            " wrap it in a function that gives the logits alone"
        )
    alone = n == 1 and z.ndim == 1
    if (z.ndim != 2 and not alone) or (not alone and len(z) != n) or z.shape[-1] < 2:
        raise ValueError(
            f"model: logits of shape (N, K) with K >= 2 wanted, got {tuple(z.shape)} for N = {n}"
        )
    if not z.is_floating_point() or z.device != x.device:
        raise ValueError(f"model: float logits on {x.device} wanted, got {z.dtype} on {z.device}")
    if not bool(z.float().reshape(n, -1).logsumexp(1).isfinite().all()):
        bad = [k for k, w in model.named_parameters() if not bool(w.isfinite().all())]
        where = f": weights {', '.join(bad[:3])} hold NaN or infinity" if bad else ""
        raise ValueError(f"model: logits that are not finite{where}")


def _single(model: nn.Module, x: Tensor) -> bool:
    """Whether one image alone gives logits (K,), as of a model that squeezes its output."""
    try:
        z = model(x[:1].clone())
    except Exception:  # a model for several images at once, such as one of batch statistics
        return False
    return isinstance(z, Tensor) and z.ndim == 1


def _twin(model: nn.Module, copies: bool, converts: bool) -> nn.Module:
    """The model on copies of its images, its logits (N, K) in their type, where it wants that.

    It shares weights and modules with the original, whose hooks stay as they are.
    """
    if not (copies or converts):
        return model
    twin = copy.copy(model)
    for name in ("_forward_pre_hooks", "_forward_hooks"):
        setattr(twin, name, OrderedDict(getattr(model, name)))
    if copies:
        twin.register_forward_pre_hook(lambda _, images: (images[0].clone(),), prepend=True)
    if converts:
        twin.register_forward_hook(
            lambda _, images, z: z.reshape(len(images[0]), -1).to(images[0].dtype)
        )
    return twin
