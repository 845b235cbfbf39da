"""Images larger than a network should see at once: tiles of the prediction, exact parts of the autoencoder."""
