"""Video files: what is in them, and single pictures out of them. Knows no upload and no choice of frames."""
