"""How the small autoencoder, priors and estimator of the `mini` preset were trained."""
