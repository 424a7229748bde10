"""Two reports of the same task and test proteins, side by side."""
