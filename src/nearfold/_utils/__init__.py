"""Helpers that do not depend on folds: arrays, files, threads, settings, progress, logs, extras."""
