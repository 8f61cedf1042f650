"""The Ray Serve deployments, thin: each wires one process and adapts Ray's handles and errors to our own words."""
