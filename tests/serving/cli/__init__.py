"""The `darkroom` command against a fake server."""
