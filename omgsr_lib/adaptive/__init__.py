"""A mid-timestep for each image (beyond the paper): uses a model, the model does not know it."""
