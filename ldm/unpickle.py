"""A pickle module for ``torch.load`` that builds tensors and plain containers, and nothing else.

Training checkpoints, such as those of Stable Diffusion v1, pickle the trainer's callbacks beside the weights. Objects
of such known packages become inert stubs, which import nothing; any other name is refused before it is called.
"""

from __future__ import annotations

import collections
import functools
import io
import pickle
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

UnpicklingError = pickle.UnpicklingError
CHUNK = 1 << 20  # bytes

# Packages whose objects may lie in a training checkpoint; none of them is imported.
STUBBED = ("pytorch_lightning", "lightning", "lightning_fabric", "numpy", "omegaconf", "pathlib", "argparse", "typing")
_DTYPES = ("float16", "bfloat16", "float32", "float64", "int64", "int32", "int16", "int8", "uint8", "bool")
_KINDS = ("Half", "BFloat16", "Float", "Double", "Long", "Int", "Short", "Char", "Byte", "Bool", "Untyped")
# Opcodes that no checkpoint needs: the extension registry, old-style instances, buffers of a stated size.
_REFUSED = (
    *(pickle.EXT1, pickle.EXT2, pickle.EXT4, pickle.INST, pickle.OBJ, pickle.PERSID),
    *(pickle.BYTEARRAY8, pickle.NEXT_BUFFER, pickle.READONLY_BUFFER),
)


class Reader(io.BufferedReader):
    """A file of which no number in it makes Python reserve more memory than the file has bytes."""

    def __init__(self, path: str | Path) -> None:
        super().__init__(io.FileIO(path))

    def read(self, size: int | None = -1) -> bytes:
        """As a file's, piece by piece where it is long."""
        if size is None or not size > CHUNK:
            return super().read(size)
        pieces = []
        while size > 0 and (piece := super().read(min(size, CHUNK))):
            pieces.append(piece)
            size -= len(piece)
        return b"".join(pieces)


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

    def extend(self, values: Any) -> None:
        """Take and forget list items."""


class ScriptObject(Stub):
    """A module of a TorchScript archive, of which only the attributes are kept; none of its code is looked at."""

    state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


def rebuild_tensor(storage: Any, offset: int, size: Sequence[int], stride: Sequence[int], *_: Any) -> Any:
    """A tensor over a part of `storage`. UnpicklingError where it reaches beyond it: torch would make it larger."""
    import torch

    numbers = (offset, *size, *stride)
    if len(size) != len(stride) or any(type(n) is not int or not 0 <= n < 2**62 for n in numbers):
        raise UnpicklingError("it describes an impossible tensor")
    end = offset + 1 + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) if all(size) else offset
    if end * storage.dtype.itemsize > storage._untyped_storage.nbytes():
        raise UnpicklingError("it describes a tensor that is larger than its data")
    tensor = torch.tensor([], dtype=storage.dtype, device=storage._untyped_storage.device)
    return tensor.set_(storage._untyped_storage, offset, tuple(size), tuple(stride))


def rebuild_parameter(data: Any, *_: Any) -> Any:
    """The tensor of a parameter."""
    return data


def encode(text: str, encoding: str = "latin1") -> bytes:
    """How protocol 2 spells bytes."""
    if encoding != "latin1":
        raise UnpicklingError(f"it asks for the encoding {encoding!r:.40}")
    return text.encode("latin1")


@functools.cache
def _allowed() -> dict[tuple[str, str], Any]:
    import torch

    rebuild = dict.fromkeys(("_rebuild_tensor", "_rebuild_tensor_v2"), rebuild_tensor)
    return {
        ("collections", "OrderedDict"): collections.OrderedDict,
        ("collections", "defaultdict"): collections.defaultdict,
        ("builtins", "set"): set,
        ("__builtin__", "set"): set,
        ("_codecs", "encode"): encode,
        **{("torch._utils", name): function for name, function in rebuild.items()},
        ("torch._utils", "_rebuild_parameter"): rebuild_parameter,
        ("torch", "Size"): torch.Size,
        ("torch", "device"): torch.device,
        **{("torch", name): getattr(torch, name) for name in (*_DTYPES, *(f"{kind}Storage" for kind in _KINDS))},
        ("torch.storage", "UntypedStorage"): torch.UntypedStorage,
        ("torch.nn.modules.container", "ParameterDict"): Stub,  # around the vectors of a textual inversion
    }


class Unpickler(pickle._Unpickler):  # type: ignore[misc, name-defined]
    """Refuses every name but those above, and a state for anything but a stub.

    Python's own unpickler, not the one in C: its memo is a dictionary, so no number in a file reserves memory.

    Raises:
        pickle.UnpicklingError: naming the class or function that the file asks for.
    """

    stack: list[Any]
    dispatch: ClassVar[dict[int, Callable[..., None]]] = dict(pickle._Unpickler.dispatch)  # type: ignore[attr-defined]

    def find_class(self, module: str, name: str) -> Any:
        """The object behind ``module.name``, or a stub."""
        if not isinstance(module, str) or not isinstance(name, str):
            raise UnpicklingError("it asks for a name that is no text")
        if (module, name) in (allowed := _allowed()):
            return allowed[module, name]
        if module.partition(".")[0] in STUBBED:
            return type("Stub", (Stub,), {})
        raise UnpicklingError(f"it asks for {module:.60}.{name:.60}")

    def load_build(self) -> None:
        """Give the object below the top of the stack its state, if it is a stub; a container keeps what it holds."""
        state = self.stack.pop()
        if isinstance(self.stack[-1], Stub):
            self.stack[-1].__setstate__(state)
        elif not isinstance(self.stack[-1], dict | list | set):
            raise UnpicklingError(f"it changes an object of {type(self.stack[-1]).__name__}")

    dispatch[pickle.BUILD[0]] = load_build

    def _refuse(self) -> None:
        raise UnpicklingError("it holds instructions that no checkpoint needs")

    dispatch.update(dict.fromkeys((code[0] for code in _REFUSED), _refuse))


# torch.load calls these, too, for files of its older format: they must be as strict.
def load(file: Any, **kwargs: Any) -> Any:
    """As ``pickle.load``, through :class:`Unpickler`."""
    return Unpickler(file, **kwargs).load()


def loads(data: bytes, **kwargs: Any) -> Any:
    """As ``pickle.loads``, through :class:`Unpickler`."""
    return load(io.BytesIO(data), **kwargs)


class _ScriptUnpickler(Unpickler):
    """Reads the modules of a TorchScript archive as `ScriptObject`s and its tensors from the archive's records."""

    def __init__(self, archive: zipfile.ZipFile, root: str) -> None:
        super().__init__(io.BytesIO(archive.read(f"{root}/data.pkl")))
        self.archive, self.root = archive, root

    def find_class(self, module: str, name: str) -> Any:
        if module.startswith("__torch__"):
            return ScriptObject
        if module == "torch.jit._pickle":  # lists of one type, and tensors of the interpreter's own
            return Stub
        return super().find_class(module, name)

    def persistent_load(self, pid: Any) -> Any:
        """The storage ("storage", kind, key, device, number of values), on the CPU."""
        import torch

        if not isinstance(pid, tuple) or len(pid) != 5 or pid[0] != "storage" or not hasattr(pid[1], "dtype"):
            raise UnpicklingError("it names data in an unknown way")
        data = self.archive.read(f"{self.root}/data/{pid[2]}")
        untyped = torch.frombuffer(bytearray(data), dtype=torch.uint8).untyped_storage()
        return torch.storage.TypedStorage(wrap_storage=untyped, dtype=pid[1].dtype, _internal=True)


def load_script(path: str | Path) -> dict[str, Any]:
    """Names to tensors of a TorchScript archive, by its records alone: nothing of its code runs.

    Raises:
        pickle.UnpicklingError, KeyError, OSError, zipfile.BadZipFile: it is damaged, or holds something else.
    """
    import torch

    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if name.count("/") == 1 and name.endswith("/data.pkl")]
        if not names or sum(entry.file_size for entry in archive.infolist()) > 2 * Path(path).stat().st_size + (
            1 << 20
        ):
            raise UnpicklingError("it is no archive as torch writes it")  # whose records are not compressed
        whole = _ScriptUnpickler(archive, names[0].partition("/")[0]).load()
    tensors: dict[str, Any] = {}
    modules = [("", whole)]
    while modules:
        prefix, module = modules.pop()
        state = module.state if isinstance(module.state, dict) else {}
        tensors.update({prefix + name: value for name, value in state.items() if isinstance(value, torch.Tensor)})
        inner = ((name, value) for name, value in state.items() if isinstance(value, ScriptObject))
        modules += [(f"{prefix}{name}.", value) for name, value in inner if prefix.count(".") < 32]
    return tensors
