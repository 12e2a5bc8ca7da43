"""Helpers that know nothing of folds: arrays, files, threads, progress, logs, extras."""
