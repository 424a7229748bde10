"""The feature store: its layout, its plan, its shards, its ledger, its seal, its readers and its checks."""
