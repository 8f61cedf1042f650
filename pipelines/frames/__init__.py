"""Stills out of videos: surveyed in one pass, chosen with a reason for each that was not, taken at full size."""
