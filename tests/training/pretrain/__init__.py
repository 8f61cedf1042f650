"""Tests of pre-training, on tiny pictures and tiny networks."""
