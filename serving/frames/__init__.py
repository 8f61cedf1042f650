"""Stills of one video: fetched, surveyed, chosen, looked at, taken and stored."""
