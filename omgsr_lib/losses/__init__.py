"""The losses: Latent Distribution Refinement, perceptual, adversarial; overlap-chunked as in the paper."""
