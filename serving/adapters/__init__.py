"""Adapters of a tenant: imported, numbered, found, handed out and deleted. Knows no HTTP and no Ray."""
