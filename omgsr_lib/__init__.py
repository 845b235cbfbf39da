from ._torchvision import ensure_torchvision


ensure_torchvision()
