"""The paper's analyses of representations, each beside its controls."""
