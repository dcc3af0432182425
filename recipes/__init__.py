"""Whole trainings: every stage from the world to the evaluated bundle, and the ablations."""
