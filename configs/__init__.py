"""What is tunable; imports nothing of ours."""
