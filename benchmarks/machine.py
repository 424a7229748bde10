"""What a figure was measured on."""

import os
import platform
from pathlib import Path

import torch

TELLING = ("amx_bf16", "avx512_bf16", "avx512f", "avx2")
"""What decides how fast a CPU multiplies matrices, best first."""


def describe(device: str, threads: int) -> str:
    """One line: processor, what it multiplies by, threads, versions; the GPU where one is used."""
    cpu = _cpu_fields()
    flags = cpu.get("flags", "").split()
    has = [flag for flag in TELLING if flag in flags]
    name = cpu.get("model name", platform.processor() or platform.machine())
    parts = [
        f"{name} ({', '.join(has[:2]) or 'no AVX2'}{'' if 'amx_bf16' in has else ', no AMX'})",
        f"{threads} of {len(os.sched_getaffinity(0))} processors",
        f"Python {platform.python_version()}",
        f"torch {torch.__version__.split('+')[0]}",
    ]
    if torch.device(device).type == "cuda":
        parts.insert(0, torch.cuda.get_device_name(device))
    return "; ".join(parts)


def _cpu_fields() -> dict[str, str]:
    path = Path("/proc/cpuinfo")
    if not path.exists():
        return {}
    lines = path.read_text().split("\n\n")[0].splitlines()
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
