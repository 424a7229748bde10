"""Features in the formats of other tools: a file or folder that needs nothing of this project to be read."""
