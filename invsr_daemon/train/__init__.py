"""Training of the autoencoder, the diffusion UNet and the noise predictor."""
