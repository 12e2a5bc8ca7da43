"""Fitted folds, and their files."""
