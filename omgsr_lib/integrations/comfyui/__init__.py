"""Nodes of ComfyUI that restore images: link this folder into `custom_nodes` (see `integrations/README.md`)."""

from comfy_api.latest import ComfyExtension

from .nodes import LoadOMGSR, RestoreOMGSR


class OMGSRExtension(ComfyExtension):
    async def get_node_list(self):
        return [LoadOMGSR, RestoreOMGSR]


async def comfy_entrypoint():
    """The extension, for which ComfyUI asks when it starts."""
    return OMGSRExtension()


__all__ = ["comfy_entrypoint"]
