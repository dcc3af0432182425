"""Ablations of VAB by config: rows of one small run, and the paper's tables beside them."""
