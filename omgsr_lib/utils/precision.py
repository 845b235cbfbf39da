"""The precision in which this machine trains fastest."""

import torch


def native_precision():
    """`"bf16"` where the device multiplies bfloat16 in hardware, else `"no"` (float32).

    Elsewhere PyTorch emulates it: on a CPU that has AVX2 alone, a training step then takes some twenty times longer.
    """
    if torch.cuda.is_available():
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        found = torch.cpu.get_capabilities()
        native = found.get("avx512_bf16") or found.get("amx_bf16")
    return "bf16" if native else "no"
