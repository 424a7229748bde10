"""What training reads, and in which order: stores, streams, splits and the loader."""
