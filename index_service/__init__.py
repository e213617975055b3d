"""Serves one shard of a generation: HNSW, exact scan, filters. `build` makes generations."""
