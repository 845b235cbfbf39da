"""Tensors made on the host, on a device."""


def to_device(tensor, device):
    """`tensor`, made on the host, on `device`; for CUDA through page-locked memory, so that neither waits."""
    return (tensor.contiguous().pin_memory() if device.type == "cuda" else tensor).to(device, non_blocking=True)
