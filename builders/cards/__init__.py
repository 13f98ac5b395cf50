"""Cards: README.md of a dataset or model revision, with its front matter, rendered from the manifest."""
