"""Quantisers: folded vectors as few bytes, and the faiss indexes that search them.

`base` says what each is; `nearfold.pipeline.spec` names them.
"""
