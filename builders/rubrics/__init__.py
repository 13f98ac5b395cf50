"""Rubrics: five criteria for a query, and ratings of responses by one criterion at a time (WritingBench, §3.2)."""
