"""How the embedded weights were made: data, autoencoder, denoiser, export; runnable by anyone."""
