"""Reward models: a score for each text, trained on pairs of which one is preferred."""
