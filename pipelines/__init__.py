"""A request becomes pixels; knows no MongoDB, no tenant, no Ray."""
