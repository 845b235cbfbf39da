"""One file per prior (DDPM, flow matching), the autoencoder's latents, loading from folders or the hub."""
