"""Weights and adapters at rest; knows no request and no HTTP."""
