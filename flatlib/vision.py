"""torchvision beside a CPU-only torch: import ``datasets`` and ``transforms`` from here.

PyPI's torchvision is built against CUDA. Beside a CPU torch its C++ operators do not load, which it
tolerates but for two operator registrations that fail at import. Declaring their schemas is enough;
the operators themselves (nms, ...) stay unavailable and say so when called.
"""

import torch

_SCHEMAS = tuple(
    f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor" for name in ("nms", "qnms")
)
_library = None  # a torch.library.Library lives as long as its Python object


def _import():
    global _library
    try:
        import torchvision
    except RuntimeError as error:
        if "torchvision::" not in str(error) or _library is not None:
            raise
        _library = torch.library.Library("torchvision", "FRAGMENT")
        for schema in _SCHEMAS:
            _library.define(schema)
        import torchvision
    return torchvision


torchvision = _import()
from torchvision import datasets, models, transforms  # noqa: E402

__all__ = ["torchvision", "datasets", "models", "transforms"]
