"""A graphics card without one: what is on the CPU is computed, what is on the device has shapes but no numbers.

PyTorch's fake tensors raise where tensors of two devices meet. What only the device knows reads as ones, so that whole
scripts run to their end; such reads are counted, and so are copies for which the host waits. Double precision is
refused, as on Apple's MPS, which fake tensors cannot stand for: PyTorch's indices ask for the real device.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import GraphExecGroup

FAKE = FakeTensorMode(allow_non_fake_inputs=True)  # one for all: fake tensors of two cannot meet
_engine = torch.autograd.grad


class FakeDevice(TorchDispatchMode):
    """Inside a `with` block, "cuda:0" exists.

    Attributes:
        waits: the operations for which the host waited for the device, in their order.
        convolutions: types of the results of convolutions.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []
        self.convolutions: set[torch.dtype] = set()
        self._numbers: dict[int, tuple[Any, Tensor]] = {}  # small tensors that came from the host, by storage
        self._pinned: dict[int, Tensor] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs, name = dict(kwargs or {}), func._schema.name
        to = torch.device(kwargs["device"]).type if kwargs.get("device") is not None else None
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        there = [tensor for tensor in given if isinstance(tensor, FakeTensor)]
        if name in ("aten::_pin_memory", "aten::pin_memory"):
            with unset_fake_temporarily():
                pinned = args[0].clone()
            self._pinned[pinned.untyped_storage()._cdata] = pinned
            return pinned
        if name == "aten::is_pinned":
            return args[0].untyped_storage()._cdata in self._pinned
        if not there and to != "cuda":
            with unset_fake_temporarily():
                return func(*args, **kwargs)
        if name == "aten::_local_scalar_dense" or (name == "aten::_to_copy" and to == "cpu"):
            if not kwargs.get("non_blocking"):
                self.waits.append(name)
            with unset_fake_temporarily():
                numbers = self._read(args[0])
                return numbers.item() if to is None else numbers.to(kwargs.get("dtype") or numbers.dtype, copy=True)
        if name in ("aten::nonzero", "aten::masked_select", "aten::unique", "aten::_unique2"):
            raise RuntimeError(f"{name} of what is on the device: its size is known there only")
        if name in ("aten::_to_copy", "aten::copy_") and len(there) < len(given):
            source = given[-1]
            fast = kwargs.get("non_blocking", args[2:] == (True,)) and source.untyped_storage()._cdata in self._pinned
            if source.dim() + (name == "aten::_to_copy") and not fast:
                self.waits.append(f"{name} from the host")
        result = func(*args, **kwargs)
        if name == "aten::convolution":
            self.convolutions.add(result.dtype)
        if name == "aten::_to_copy" and not there and args[0].numel() <= 10_000:
            with unset_fake_temporarily():
                storage = result.untyped_storage()
                self._numbers[storage._cdata] = storage, args[0].to(result.dtype)
        elif func._schema.is_mutable:
            for tensor in there:
                self._numbers.pop(tensor.untyped_storage()._cdata, None)
        if any(getattr(leaf, "dtype", None) == torch.float64 for leaf in tree_leaves(result)):
            raise TypeError(f"{name} gives float64 on the device, which MPS doesn't have")
        return result

    def _read(self, tensor: Tensor) -> Tensor:
        """The numbers of a tensor on the device where they are known, else ones."""
        _, numbers = self._numbers.get(tensor.untyped_storage()._cdata, (None, None))
        if numbers is None or numbers.shape != tensor.shape:
            return torch.ones(tensor.shape, dtype=tensor.dtype)
        return numbers


@contextmanager
def fake_device() -> Iterator[FakeDevice]:
    """A "cuda:0" that a script can be told to use, gradients and mixed precision included."""
    with pytest.MonkeyPatch.context() as patch, FAKE, FakeDevice() as mode:
        patch.setattr(torch.cuda, "is_available", lambda: False)  # asked at every operation, and slow
        patch.setattr(torch.cuda, "mem_get_info", lambda _: (2**36, 2**36))
        patch.setattr(torch.cuda, "is_bf16_supported", lambda *_, **__: True)
        patch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
        patch.setattr(torch.autograd, "grad", gradient)
        patch.setattr(Tensor, "backward", backward)
        yield mode


def gradient(
    outputs: Any, inputs: Any, grad_outputs: Any = None, allow_unused: bool = False, **options: Any
) -> tuple[Tensor | None, ...]:
    """`torch.autograd.grad`, whose engine needs a real device: the nodes of the graph are called one by one."""
    ends = [outputs] if isinstance(outputs, Tensor | GradientEdge) else list(outputs)
    starts = [inputs] if isinstance(inputs, Tensor) else list(inputs)
    if not isinstance(starts[0], FakeTensor):
        return _engine(outputs, inputs, grad_outputs, allow_unused=allow_unused, **options)
    first = [grad_outputs] if grad_outputs is None or isinstance(grad_outputs, Tensor) else list(grad_outputs)
    found = _walk(ends, first)
    made = []
    for tensor in starts:
        edge = get_gradient_edge(tensor)
        one = found.get(edge.node, {}).get(edge.output_nr)
        if one is None and not allow_unused:
            raise RuntimeError("One of the differentiated Tensors appears to not have been used in the graph")
        made.append(torch.zeros_like(tensor) if one is None and options.get("materialize_grads") else one)
    return tuple(made)


def backward(tensor: Tensor, *_: Any, **__: Any) -> None:
    """`tensor.backward()` of a scalar."""
    for node, gradients in _walk([tensor], [None]).items():
        if hasattr(node, "variable"):
            node.variable.grad = gradients[0] if node.variable.grad is None else node.variable.grad + gradients[0]


def _walk(ends: Sequence[Any], first: Sequence[Tensor | None]) -> dict[Any, dict[int, Tensor]]:
    """By node and number of its output: the gradient that arrives there."""
    edges = [end if isinstance(end, GradientEdge) else get_gradient_edge(end) for end in ends]
    waiting: Counter[Any] = Counter()
    seen, stack = set(), [edge.node for edge in edges]
    while stack:
        if (node := stack.pop()) in seen:
            continue
        seen.add(node)
        following = [below for below, _ in node.next_functions if below is not None]
        waiting.update(following)
        stack += following
    arrived: dict[Any, dict[int, Tensor]] = {node: {} for node in seen}
    for edge, end, one in zip(edges, ends, first, strict=True):
        arrived[edge.node][edge.output_nr] = torch.ones_like(end) if one is None else one
    ready = [node for node in {edge.node for edge in edges} if not waiting[node]]
    group = nullcontext() if GraphExecGroup._get_current_group() else GraphExecGroup()  # what is recomputed once
    with torch.no_grad(), group:
        while ready:
            node = ready.pop()
            if hasattr(node, "variable"):
                continue
            own = arrived[node]
            inputs = [own.get(i) for i in range(len(node._input_metadata))]
            call = node.apply if isinstance(node, torch.autograd.function.BackwardCFunction) else node
            results = call(*inputs) if own else [None] * len(node.next_functions)
            results = results if isinstance(results, Sequence) else [results]
            if len(results) > len(node.next_functions):  # also of arguments that are no tensors
                results = [result for result in results if result is not None]
            for (below, number), one in zip(node.next_functions, results, strict=True):
                if below is None:
                    continue
                if one is not None:
                    expected = below._input_metadata[number]
                    assert one.device == expected.device, node
                    one = one.sum_to_size(expected.shape).to(expected.dtype)
                    before = arrived[below].get(number)
                    arrived[below][number] = one if before is None else before + one
                waiting[below] -= 1
                if not waiting[below]:
                    ready.append(below)
    return arrived
