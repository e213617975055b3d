"""A generation: the immutable index files of every shard and the manifest that vouches for them."""
