"""The embeddings of the one prompt of a model, as a component of a pipeline of diffusers (see `pipeline`)."""

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import nn


class FixedPrompt(ModelMixin, ConfigMixin):
    """Embeddings instead of text encoders; `shapes`: that of each, by name."""

    @register_to_config
    def __init__(self, shapes):
        super().__init__()
        for name, shape in shapes.items():
            setattr(self, name, nn.Parameter(torch.empty(shape), requires_grad=False))

    def forward(self):
        """The embeddings by name."""
        return dict(self.named_parameters())
