"""The recipes that come with amma: a TOML file each, read by `amma.train.run.recipe`."""
