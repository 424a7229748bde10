"""Where encoders run and in what they compute: `auto` is the GPU if there is one, else the CPU."""

from amma.manifests.errors import UsageError


def resolve_device(name: str) -> str:
    """Turn `auto` into `cuda` or `cpu`; raise `UsageError` for a device that this machine does not have."""
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"no device called {name!r}. Known: auto, cpu, cuda, cuda:N.") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(
            f"device {name!r}: this machine has {torch.cuda.device_count()} CUDA devices that torch "
            f"{torch.__version__} can use. Pass --device cpu, or install torch for your driver."
        )
    if device.type not in ("cpu", "cuda"):
        raise UsageError(f"device {name!r} is not supported. Known: auto, cpu, cuda, cuda:N.")
    return name


def resolve_precision(name: str, device: str) -> str:
    """Turn `auto` into what the device is made for: bf16 on a GPU that multiplies it natively, else fp32."""
    import torch

    if name not in ("auto", "fp32", "bf16", "fp16"):
        raise UsageError(f"no precision called {name!r}. Known: auto, fp32, bf16, fp16.")
    on_gpu = torch.device(device).type == "cuda"
    if name == "fp16" and not on_gpu:
        raise UsageError("precision fp16 needs a GPU. Pass --precision bf16, or fp32 for exact features.")
    if name != "auto":
        return name
    return "bf16" if on_gpu and torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
