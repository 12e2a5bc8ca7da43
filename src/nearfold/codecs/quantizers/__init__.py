"""Vectors to bytes: one file a kind."""
