"""Figures: what is drawn of datasets and of trainings, for cards and reports, in one style."""
