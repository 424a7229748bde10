"""Where and how numbers are computed: device, threads, deterministic kernels."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from amma.manifests.errors import UsageError


def find_device(name: str) -> torch.device:
    """The device called `name`; `auto` is the first GPU, else the host's processor.

    Raises `UsageError` if torch knows no such device or this machine has none.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"there is no device {name!r}. Give auto, cpu, cuda or cuda:N.") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UsageError(
            f"device {name!r} was asked for, but torch {torch.__version__} sees no GPU here. Use --device cpu."
        )
    return device


def one_thread() -> None:
    """For threads that read beside the arithmetic: their conversions are small, and would take its threads away."""
    torch.set_num_threads(1)


@contextmanager
def arithmetic(threads: int | None, device: torch.device) -> Iterator[int]:
    """Deterministic kernels where torch has them, and `threads` threads; gives their number, and restores both."""
    threads_before = torch.get_num_threads()
    strict_before = torch.are_deterministic_algorithms_enabled()
    warn_before = torch.is_deterministic_algorithms_warn_only_enabled()
    filling: Any = torch.utils.deterministic  # its one attribute is made at run time
    fill_before = filling.fill_uninitialized_memory
    if device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.set_num_threads(threads or threads_before)
    torch.use_deterministic_algorithms(True, warn_only=True)
    filling.fill_uninitialized_memory = False
    try:
        yield torch.get_num_threads()
    finally:
        torch.set_num_threads(threads_before)
        torch.use_deterministic_algorithms(strict_before, warn_only=warn_before)
        filling.fill_uninitialized_memory = fill_before
