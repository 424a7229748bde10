"""Metrics, tasks, fine-tuning protocols and reports."""
