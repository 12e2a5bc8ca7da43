"""The RAE paper's own code (github.com/explorerZH/RAE-KDD2026, MIT) as a peer of `RAE(solver="adam")`.

    git clone https://github.com/explorerZH/RAE-KDD2026 rae
    python benchmarks/peer_rae.py --data folder --clone rae

Its model, data loader, optimiser and epoch of training are called as its `train.py` calls them; nothing of it
is part of this repository. Both learn from the same rows by the same lambda, epochs, batch size, rates and
width, by several seeds each, and are judged alike: recall@10 of held-out queries. Needs torch, tqdm and the
clone.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from data import N_QUERIES
from rich.console import Console
from rich.table import Table

from nearfold import RAE
from nearfold._utils.arrays import Float32
from nearfold.evaluation.ground_truth import GroundTruth
from nearfold.evaluation.recall import recall_of_fold
from nearfold.folds.encoder import Encoder
from nearfold.methods.pca import PCA

LAMBDAS = (0.0, 1e-6, 3e-6, 1e-5)
STEPS, BATCH, RATE = 3000, 128, 1e-3


@dataclass(frozen=True)
class Theirs:
    """The modules of the authors' code."""

    model: Any
    train: Any
    data: Any

    @classmethod
    def of(cls, clone: Path) -> Theirs:
        """Import them from a clone."""
        code = clone / "code"
        if not (code / "train.py").is_file():
            sys.exit(f"{clone} has no code/train.py: give a clone of github.com/explorerZH/RAE-KDD2026")
        sys.path.insert(0, str(code))
        return cls(*(importlib.import_module(name) for name in ("model", "train", "data_utils")))

    def learn(self, base: Float32, m: int, weight_decay: float, seed: int) -> Encoder:
        """Train as `main` of their train.py does, without its files and its looks along the way."""
        args = SimpleNamespace(
            optimizer="Adam", lr=RATE, weight_decay=weight_decay, if_normalize=True, precision="float32"
        )
        self.train.set_seed(seed)
        rows = self.data.VectorDataset(torch.from_numpy(base), list(range(len(base))), args=args)
        loader = torch.utils.data.DataLoader(
            rows, batch_size=BATCH, shuffle=True, collate_fn=lambda batch: self.data._collate(batch, rows)
        )
        model = self.model.AutoEncoder(base.shape[1], m)
        optimizer = self.train.build_optimizer(args, model)
        epochs = max(1, STEPS // len(loader))
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs, eta_min=RATE * 0.01)
        for _ in range(epochs):
            with contextlib.redirect_stderr(io.StringIO()):
                self.train.train_epoch(model, loader, torch.nn.MSELoss(), optimizer, "cpu")
            schedule.step()
        (linear,) = model.encoder
        return Encoder(
            linear.weight.detach().numpy().copy(), linear.bias.detach().numpy().copy(), metric="cosine"
        )


def steps_of(rows: int) -> int:
    """Return the number of steps that the authors' code makes of 3,000: whole epochs."""
    per_epoch = -(-rows // BATCH)
    return max(1, STEPS // per_epoch) * per_epoch


def kappa(fold: Encoder) -> float:
    """Return the condition number of an encoder."""
    values = np.linalg.svd(fold.weight.astype(float), compute_uv=False)
    return float(values[0] / values[-1])


def main() -> None:
    """Print recall@10 by both codes, lambda by lambda."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of the vectors")
    parser.add_argument("--clone", type=Path, required=True, help="clone of the authors' repository")
    parser.add_argument("--set", default="wordnet-minilm-384", help="(default: %(default)s)")
    parser.add_argument("--rows", type=int, default=10_000, help="of base and queries (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=5, help="(default: %(default)s)")
    parser.add_argument("--lambdas", type=float, nargs="+", default=list(LAMBDAS))
    given = parser.parse_args()
    theirs = Theirs.of(given.clone)
    vectors = np.load(given.data / f"{given.set}.npy")[-given.rows :].astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    base, queries = np.ascontiguousarray(vectors[:-N_QUERIES]), vectors[-N_QUERIES:]
    m, steps = base.shape[1] // 4, steps_of(len(base))
    truth = GroundTruth.compute(base, queries, 10, "cosine")

    def recall(fold: Encoder) -> float:
        return recall_of_fold(fold, truth, [10], []).recall[10].mean

    table = Table(
        title=f"{given.set}, {len(base):,} rows, {base.shape[1]} -> {m}, {steps} steps, {given.seeds} seeds: "
        f"recall@10, mean and deviation of seeds",
        title_justify="left",
    )
    for column in ("lambda", "code", "recall@10", "deviation", "minus authors'", "kappa"):
        table.add_column(column, no_wrap=True)
    for weight_decay in given.lambdas:
        reference = np.nan
        for name in ("authors'", "ours, biases", "ours"):
            folds = []
            for seed in range(given.seeds):
                if name == "authors'":
                    folds.append(theirs.learn(base, m, weight_decay, seed))
                    continue
                ours = RAE(
                    m, weight_decay=weight_decay, bias=name != "ours", n_steps=steps, random_state=seed
                )
                folds.append(ours.fit(base).encoder_)
            kept = np.array([recall(fold) for fold in folds])
            reference = kept.mean() if name == "authors'" else reference
            table.add_row(
                f"{weight_decay:g}",
                name,
                f"{kept.mean():.4f}",
                f"{kept.std(ddof=1) if len(kept) > 1 else 0:.4f}",
                f"{kept.mean() - reference:+.4f}",
                f"{np.mean([kappa(fold) for fold in folds]):.3g}",
            )
    console = Console(width=130, highlight=False)
    console.print(table)
    for center in (True, False):
        name = "centred" if center else "uncentred"
        console.print(f"{name} PCA: {recall(PCA(m, center=center).fit(base).encoder_):.4f}")


if __name__ == "__main__":
    main()
