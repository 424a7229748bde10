"""What a result must be seen beside: baselines, nearest sequences, and what pretraining saw of the test split."""
