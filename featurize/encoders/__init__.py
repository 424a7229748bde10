"""Frozen encoders: one class a library, behind one protocol (`protocol.py`) and one registry (`registry.py`)."""
