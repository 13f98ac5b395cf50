"""RationAlign: rationales, a reward model without human labels, preference pairs (Cao et al., 2025).

The dataset stages; what is trained on them is in training/rationalign.
"""
