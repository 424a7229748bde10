"""A tuned model as a folder of its own, and what it says of new proteins."""
