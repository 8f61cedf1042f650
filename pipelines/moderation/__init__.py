"""Pictures and prompts become scores; what is done about a score is somebody else's decision."""
