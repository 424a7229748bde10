"""What is told of an evaluation: typed results, the page, lines for a terminal, tables of predictions."""
