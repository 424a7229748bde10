"""Frozen encoders and the feature store they fill."""
