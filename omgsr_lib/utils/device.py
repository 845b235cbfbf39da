"""What differs between devices: moving tensors that were made on the host, and the kernels of attention."""

from contextlib import nullcontext

from torch.nn.attention import SDPBackend, sdpa_kernel


# Fastest first, measured on an H200 in bf16 (`benchmarks/gpu_restore.py`): at head sizes 64 and 128 cuDNN computes 1.5
# to 1.9 times as fast as FlashAttention and 2.5 to 3.6 times as fast as the memory-efficient kernel, which alone takes
# the 512 of an autoencoder.
KERNELS = [
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
]
SMALL_NETWORK = 50_000_000  # parameters up to which a network does not fill several threads of a CPU


def small_on_cpu(network):
    """Whether `network` lies on a CPU and is too small for more than one of its threads."""
    parameters = list(network.parameters())
    return parameters[0].device.type == "cpu" and sum(p.numel() for p in parameters) <= SMALL_NETWORK


def fast_attention(device):
    """A context in which attention on a GPU takes the first of `KERNELS` that accepts a call; elsewhere torch chooses.

    A CPU has one kernel that is worth taking, which torch takes by itself.
    """
    return sdpa_kernel(KERNELS, set_priority=True) if device.type == "cuda" else nullcontext()


def to_device(tensor, device):
    """`tensor`, made on the host, on `device`; for CUDA through page-locked memory, so that neither waits."""
    return (tensor.contiguous().pin_memory() if device.type == "cuda" else tensor).to(device, non_blocking=True)
