"""The memory of all tensors that are alive, followed operator by operator. It knows nothing about `minippo`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveMemory(TorchDispatchMode):
    """Follows the storages of every operator's inputs and results, also in backward passes, and records the peak.

    Views share a storage, which counts once. A storage dies with its last tensor, whether Python or the autograd graph
    held it: weak references tell when. Temporaries inside a kernel are not seen.

    `existing` are tensors that were made before, such as weights that no operator may read for a while.
    """

    def __init__(self, existing: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self._alive: dict[int, tuple[StorageWeakRef, int, str]] = {}  # address -> reference, bytes, what it is
        self._packed: dict[int, tuple[torch._C._WeakTensorRef, int]] = {}
        self.live = 0
        """Bytes alive after the latest operator."""
        self.peak = 0
        self._largest: list[tuple[int, str]] = []
        for tensor in existing:
            self._follow(tensor, "existing")
        self._measure()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        for tensor in tree_leaves((args, kwargs)):
            if isinstance(tensor, Tensor):
                self._follow(tensor, "existing")
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._follow(tensor, str(func))
        self._measure()
        return result

    def restart(self) -> None:
        """Measure the peak from here on."""
        self.peak = 0
        self._measure()

    def _follow(self, tensor: Tensor, origin: str) -> None:
        if tensor.is_sparse:  # it has no storage of its own
            self._follow(tensor._indices(), origin)
            self._follow(tensor._values(), origin)
            return
        if tensor.is_mkldnn:  # what oneDNN has packed has neither a storage nor views
            if tensor._cdata not in self._packed:
                self._packed[tensor._cdata] = torch._C._WeakTensorRef(tensor), tensor.nbytes
                self.live += tensor.nbytes
            return
        storage = tensor.untyped_storage()
        if storage._cdata not in self._alive and storage.device.type != "meta":
            kind = f"{origin} {tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"
            self._alive[storage._cdata] = StorageWeakRef(storage), storage.nbytes(), kind
            self.live += storage.nbytes()

    @property
    def at_peak(self) -> Counter[str]:
        """What was alive at the peak: the operator that made a storage, its shape and dtype -> bytes."""
        parts: Counter[str] = Counter()
        for size, kind in self._largest:
            parts[kind] += size
        return parts

    def _measure(self) -> None:
        # A weak reference keeps its address from being used again, so a dead storage cannot be taken for a new one.
        expired = torch.UntypedStorage._expired  # what `StorageWeakRef.expired` calls, ten thousands of times here
        for address in [address for address in self._alive if expired(address)]:
            self.live -= self._alive.pop(address)[1]
        for address in [address for address, (reference, _) in self._packed.items() if reference.expired()]:
            self.live -= self._packed.pop(address)[1]
        if self.live > self.peak:
            self.peak, self._largest = self.live, [(size, kind) for _, size, kind in self._alive.values()]
            self._largest += [(size, "packed weight") for _, size in self._packed.values()]
