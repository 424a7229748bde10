"""Many processes that fill one store: a dask.distributed cluster, or parts that know nothing of each other."""
