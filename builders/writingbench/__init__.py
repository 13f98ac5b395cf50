"""WritingBench: requests, criteria for each of them, ratings, and data for a writer and a critic.

taxonomy ─ request ─ refine ─ criteria ─ respond ─ rate ─ select ─ [writer];  rate ─ critique ─ [critic]
"""
