"""One machine's stand-ins for MongoDB, S3 and a Ray cluster, started and supervised by `darkroom serve`."""
