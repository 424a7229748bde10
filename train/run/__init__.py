"""A run: its configuration, its steps, its folder, its checkpoints and its log."""
