"""Pipelines, stages, the build graph and its runner, for datasets and models alike."""
