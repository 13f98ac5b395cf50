"""RationAlign's graph, its model stages, its evaluation, and its part of the generated world."""
