"""A device that this machine does not have, for tests of what runs on one: torch computes it on the CPU.

Its tensors say that they are on "cuda", and refuse what torch refuses of CUDA's: to meet tensors of the CPU that are no
scalars, and to be looked at by numpy. What is forgotten to be moved there or back is found without a GPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

NAME = "cuda"
DEVICE = torch.device(NAME)
MOVES = {torch.Tensor.to, torch.Tensor.cpu, torch.Tensor.copy_}


class There(torch.Tensor):
    """A tensor of that device."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func == torch.Tensor.device.__get__:  # type: ignore[attr-defined]
            return DEVICE
        if func is torch.Tensor.numpy:
            raise TypeError("can't convert a tensor of another device to numpy; use cpu() first")
        if func is torch.Tensor.cpu:
            return here(args[0].clone() if args[0].is_inference() else args[0])
        if func not in MOVES and any(_is_here(each) for each in _tensors([args, kwargs])):
            raise RuntimeError(f"{func.__name__}: tensors of two devices")
        if kwargs.get("device") == DEVICE:
            kwargs["device"] = "cpu"
        args = tuple(torch.device("cpu") if isinstance(each, torch.device) else each for each in args)
        return super().__torch_function__(func, types, args, kwargs)


def here(values: torch.Tensor) -> torch.Tensor:
    return values.as_subclass(torch.Tensor)


def _is_here(values: torch.Tensor) -> bool:
    return not isinstance(values, There) and values.ndim > 0 and values.device.type == "cpu"


def _tensors(values: Any) -> Iterator[torch.Tensor]:
    if isinstance(values, torch.Tensor):
        yield values
    elif isinstance(values, dict):
        yield from _tensors(list(values.values()))
    elif isinstance(values, list | tuple):
        for each in values:
            yield from _tensors(each)


class Making(TorchFunctionMode):
    """Tensors that are asked for on the device, or moved there, are `There`."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.Tensor.to and any(map(_names, args)):
            others = tuple(each for each in args if not _names(each))
            return (func(*others, **kwargs) if others[1:] or kwargs else others[0]).as_subclass(There)
        if _names(kwargs.get("device")):
            return func(*args, **{**kwargs, "device": "cpu"}).as_subclass(There)
        return func(*args, **kwargs)


def _names(value: Any) -> bool:
    return isinstance(value, str | torch.device) and str(value).startswith(NAME)


@contextmanager
def another_device() -> Iterator[str]:
    """Gives the device's name."""
    with Making():
        yield NAME
