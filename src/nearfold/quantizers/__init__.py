"""Quantisers: folded vectors as few bytes, and the faiss indexes that search them.

`base` says what each is; `registry` lists them by name.
"""
