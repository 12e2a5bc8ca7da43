"""Vectors in files: one file a format, all read and written as chunks of rows."""
