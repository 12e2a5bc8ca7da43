"""Evaluation of folds on held-out queries: ground truth, recall, intervals, comparisons, drift."""
