"""The local store: files, shards, columns, manifests and revisions."""
