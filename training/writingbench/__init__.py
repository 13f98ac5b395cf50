"""WritingBench: the graph, and its trainings."""
