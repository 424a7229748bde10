"""What is predicted for whom: labels and splits of a store's proteins, terms and their names."""
