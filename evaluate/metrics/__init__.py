"""Figures from scores and labels: exact ones, those of others by name, and how sure they are. No models, no files."""
