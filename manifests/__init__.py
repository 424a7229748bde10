"""Which proteins: readers, the manifest table, labels and splits; also errors, files and console, shared by all."""
