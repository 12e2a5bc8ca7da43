"""Folds applied to data that need not fit in memory."""
