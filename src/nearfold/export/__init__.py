"""Folds in the files of other tools, which then need no nearfold: one module a format."""
