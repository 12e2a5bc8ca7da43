"""Judging folds on held-out queries: exact truth, preservation, recall, intervals, comparisons."""
