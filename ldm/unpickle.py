"""A pickle module for ``torch.load`` that can build tensors and plain containers, and nothing else.

Training checkpoints, such as those of Stable Diffusion v1, pickle the trainer's callbacks beside the weights.
Classes of such known packages become inert stubs; any other name is refused before anything of it is called.
"""

from __future__ import annotations

import io
import pickle
from typing import Any

UnpicklingError = pickle.UnpicklingError

# Rebuilding tensors from storages, which torch.load itself hands over.
ALLOWED = {
    ("collections", "OrderedDict"),
    ("collections", "defaultdict"),
    ("torch._utils", "_rebuild_tensor"),
    ("torch._utils", "_rebuild_tensor_v2"),
    ("torch._utils", "_rebuild_parameter"),
    ("torch", "Size"),
    ("torch", "device"),
    ("_codecs", "encode"),
    ("__builtin__", "set"),
    ("builtins", "set"),
}
TORCH_TYPES = ("Storage", "float16", "bfloat16", "float32", "float64", "int64", "int32", "uint8", "bool")
# Packages whose objects may lie in a training checkpoint; none of them is imported.
STUBBED = ("pytorch_lightning", "lightning", "lightning_fabric", "numpy", "omegaconf", "pathlib", "argparse", "typing")


class Stub:
    """Stands for an object that is not needed: takes any arguments and any state, does nothing."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Stub:
        return object.__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def append(self, value: Any) -> None:
        """Take and forget a list item."""


class Unpickler(pickle.Unpickler):
    """Refuses every name but those above.

    Raises:
        pickle.UnpicklingError: naming the class or function that the file asks for.
    """

    def find_class(self, module: str, name: str) -> Any:
        """The object behind ``module.name``, or a stub."""
        if (module, name) in ALLOWED:
            return super().find_class(module, name)
        if module == "torch" and name.endswith(TORCH_TYPES):
            return super().find_class(module, name)
        if module.split(".")[0] in STUBBED:
            return type(name.rpartition(".")[2], (Stub,), {"__module__": module})
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


# torch.load calls these, too, for files of its older format: they must be as strict.
def load(file: Any, **kwargs: Any) -> Any:
    """As ``pickle.load``, through :class:`Unpickler`."""
    return Unpickler(file, **kwargs).load()


def loads(data: bytes, **kwargs: Any) -> Any:
    """As ``pickle.loads``, through :class:`Unpickler`."""
    return load(io.BytesIO(data), **kwargs)
