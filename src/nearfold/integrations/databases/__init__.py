"""Folded columns beside the full ones, in databases."""
