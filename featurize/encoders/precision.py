"""What encoders compute in, by the names that people choose them by (`device.resolve_precision`)."""

import torch

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""What weights and products are in; what fingerprints call it is the name of the dtype without `torch.`."""
