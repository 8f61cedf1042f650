"""Tenants and their keys: who is calling, and whose data they may see."""
