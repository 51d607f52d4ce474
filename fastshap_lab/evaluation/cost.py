"""Measurement of an explanation's cost: seconds, passes through networks, memory."""

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastshap_lab.attribution.base import hooked


@dataclass
class Cost:
    """The cost of the block under ``metered``.

    Attributes:
        seconds: Wall time in seconds.
        forward: Number of images in forward passes; masked or disturbed copies of an image count one each.
        backward: Number of images in backward passes.
        mebibytes: Peak of the memory in MiB, minus the memory before; NaN where the system does not measure it.
    """

    seconds: float = 0.0
    forward: int = 0
    backward: int = 0
    mebibytes: float = float("nan")


@contextmanager
def metered(*modules: nn.Module) -> Iterator[Cost]:
    """Measure the cost of a block of code.

    Args:
        modules: Modules whose passes are counted; none of them may call another.
    """
    cost = Cost()

    def count(_: nn.Module, __: Any, output: Tensor) -> None:
        cost.forward += len(output)
        if output.requires_grad:
            output.register_hook(count_back)

    def count_back(gradient: Tensor) -> None:
        cost.backward += len(gradient)

    device = next((each.device for module in modules for each in module.parameters()), torch.device("cpu"))
    with hooked([lambda module=module: module.register_forward_hook(count) for module in modules]):
        before, start = _start_of_memory(device), time.perf_counter()
        yield cost
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        cost.seconds = time.perf_counter() - start
    cost.mebibytes = (_peak_memory(device) - before) / 2**20


_PEAK, _NOW = "VmHWM", "VmRSS"


def _start_of_memory(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return float(torch.cuda.memory_allocated(device))
    try:
        Path("/proc/self/clear_refs").write_text("5")  # Linux: resets the peak of resident memory
    except OSError:
        return float("nan")
    return _resident(_NOW)


def _peak_memory(device: torch.device) -> float:
    return float(torch.cuda.max_memory_allocated(device)) if device.type == "cuda" else _resident(_PEAK)


def _resident(which: str) -> float:
    try:
        found = re.search(rf"{which}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    except OSError:
        return float("nan")
    return float(found[1]) * 1024 if found else float("nan")
