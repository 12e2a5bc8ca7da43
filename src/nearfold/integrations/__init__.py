"""Folds in other people's software."""
