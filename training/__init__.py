"""Makes weights: the embedded model today, LoRAs from video next; knows no HTTP."""
