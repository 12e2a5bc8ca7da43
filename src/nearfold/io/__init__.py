"""Vectors in files: one module for each format, all of which read and write chunks of rows."""
