"""A request's life outside the GPU: accepted, stored, claimed, made, kept, ended."""
