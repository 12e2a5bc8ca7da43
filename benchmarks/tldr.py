"""TLDR, Twin Learning for Dimensionality Reduction (Kalantidis, Lassance, Almazan, Larlus, TMLR 2022).

Reimplemented from the paper, for the nearest peer's own package is not on the registry. A linear encoder; a
projector of one hidden layer with batch normalisation and ReLU; pairs of a row and one of its k nearest
neighbours; and the loss of Barlow Twins (Zbontar et al., arXiv 2103.03230) on the projections: the
cross-correlation of both sides is to be the identity. The projector is dropped. Written in torch.
"""

from __future__ import annotations

import numpy as np
import torch

from nearfold._utils.arrays import Float32, Metric, normalize_rows
from nearfold.folds.encoder import Encoder
from nearfold.scan.neighbors import nearest_others

__all__ = ["tldr"]

_CHUNK = 2048


def tldr(
    X: Float32,
    m: int,
    metric: Metric,
    *,
    k: int = 3,
    hidden: int = 1024,
    epochs: int = 20,
    batch: int = 1024,
    rate: float = 1e-3,
    off_diagonal: float = 5e-3,
    seed: int = 0,
) -> Encoder:
    """Return the encoder that TLDR learns from X (n, d); cosine scales rows to norm 1 first."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    rows = normalize_rows(X) if metric == "cosine" else X
    starts = range(0, len(rows), _CHUNK)
    neighbors = np.concatenate(
        [nearest_others(rows, np.arange(s, min(len(rows), s + _CHUNK)), k, metric) for s in starts]
    )
    scale = float(np.linalg.norm(rows, axis=1).mean())
    data = torch.from_numpy(np.ascontiguousarray(rows / scale))
    encoder = torch.nn.Linear(rows.shape[1], m, bias=False)
    projector = torch.nn.Sequential(
        torch.nn.Linear(m, hidden),
        torch.nn.BatchNorm1d(hidden),
        torch.nn.ReLU(),
        torch.nn.Linear(hidden, hidden),
    )
    last = torch.nn.BatchNorm1d(hidden, affine=False)
    parameters = [*encoder.parameters(), *projector.parameters()]
    adam = torch.optim.AdamW(parameters, lr=rate, weight_decay=1e-6)
    steps = epochs * (len(rows) // batch)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(adam, steps)
    for _ in range(epochs):
        order = rng.permutation(len(rows))
        for start in range(0, len(rows) - batch + 1, batch):
            chosen = order[start : start + batch]
            pair = neighbors[chosen, rng.integers(0, k, batch)]
            left, right = (last(projector(encoder(data[torch.from_numpy(each)]))) for each in (chosen, pair))
            correlation = left.T @ right / batch
            diagonal = torch.diagonal(correlation)
            loss = ((diagonal - 1) ** 2).sum()
            loss = loss + off_diagonal * ((correlation**2).sum() - (diagonal**2).sum())
            adam.zero_grad()
            loss.backward()
            adam.step()
            schedule.step()
    return Encoder(encoder.weight.detach().numpy(), metric=metric, method="tldr")
