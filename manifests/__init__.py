"""Which proteins: readers, the manifest table, labels and splits, and what every stage shares (errors, files, console)."""
