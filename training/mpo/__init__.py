"""Margin-based preference optimisation (RationAlign, §3.2.2)."""
