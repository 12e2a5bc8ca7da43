"""The authors' own QINCo2 (github.com/facebookresearch/Qinco, CC BY-NC 4.0) as a peer of the additive codes.

    git clone https://github.com/facebookresearch/Qinco qinco
    python benchmarks/peer_qinco.py --data folder --clone qinco

Its residual quantiser, model and schedule are called as its `train_qinco` calls them, with the rate, decay
and clipping of its `qinco_cfg.yaml`; nothing of it is part of this repository. The networks are smaller
than the smallest that the paper names (QINCo2-S: A=16, B=32, L=2, de=128, dh=256, trained on 60 times
10,000,000 rows), which take GPUs; those of the README's "very small model" are the default. All rows of the
base are learned from, as nearfold's codes do, behind PCA or at full width, and the epoch that is kept is the
last. Needs torch, einops, accelerate, torcheval and the clone.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import faiss
import numpy as np
import torch
from data import load
from rich.console import Console

from nearfold._utils.arrays import Float32, normalize_rows
from nearfold.cli.console import interval
from nearfold.evaluation.ground_truth import GroundTruth
from nearfold.evaluation.intervals import estimate
from nearfold.evaluation.recall import recall_of_neighbors
from nearfold.methods.pca import PCA

console = Console(width=130, highlight=False)

# As in their qinco_cfg.yaml.
RATE, DECAY, CLIP, RAMP = 8e-4, 0.1, 0.1, 3 / 60
# Theirs are of 1,024 rows; few rows need smaller ones for as many steps.
BATCH = 256


class Theirs(NamedTuple):
    """The modules of the authors' code."""

    model: Any
    scheduler: Any
    vrq: Any

    @classmethod
    def of(cls, clone: Path) -> Theirs:
        """Import them from a clone."""
        if not (clone / "qinco" / "vrq.py").is_file():
            sys.exit(f"{clone} has no qinco/vrq.py: give a clone of github.com/facebookresearch/Qinco")
        sys.path.insert(0, str(clone))
        return cls(
            *(importlib.import_module(f"qinco.{name}") for name in ("model", "model.scheduler", "vrq"))
        )


def settings(given: argparse.Namespace, vectors: Float32) -> SimpleNamespace:
    """Return the configuration that their classes read."""
    alone = SimpleNamespace(
        device=torch.device("cpu"), num_processes=1, print=lambda *_: None, wait_for_everyone=lambda: None
    )
    return SimpleNamespace(
        M=given.bytes,
        _M_ivf=given.bytes,
        K=256,
        A=given.candidates,
        B=given.beam,
        L=given.blocks,
        de=given.embedding,
        dh=given.hidden,
        task="train",
        qinco1_mode=False,
        codebook_noise_init=0.1,
        enc_max_bs=1 << 16,
        ivf_in_use=False,
        mse_scale=1,
        _ivf_book=None,
        _qinco_jit=False,
        _cur_epoch=0,
        _accelerator=alone,
        _D=vectors.shape[1],
        _data_mean=vectors.mean(axis=0),
        _data_std=vectors.std(),
    )


def batches(rows: torch.Tensor, generator: torch.Generator) -> Iterator[torch.Tensor]:
    """Yield the rows once, shuffled."""
    for part in torch.randperm(len(rows), generator=generator).split(BATCH):
        yield rows[part]


def learn(theirs: Theirs, cfg: SimpleNamespace, vectors: Float32, epochs: int) -> Any:
    """Return a model trained as `train_qinco` of theirs does, without its files and its validation."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    rows = torch.from_numpy(vectors)
    began = time.perf_counter()
    centroids = theirs.vrq.train_rq_centroids(cfg, rows.split(BATCH), rows[:BATCH].split(BATCH))
    model = theirs.model.QINCo(cfg)
    theirs.model.initialize_qinco_codebooks(cfg, model, centroids)
    console.print(f"residual quantiser: {time.perf_counter() - began:.0f} s")
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=DECAY)
    schedule = theirs.scheduler.RampCosineLRSchedule(optimizer, RAMP * epochs, epochs, RATE * 1e-3)
    n_batches = -(-len(rows) // BATCH)
    model.train()
    for epoch in range(epochs):
        began, error = time.perf_counter(), 0.0
        used = torch.zeros(cfg.M, cfg.K)
        cfg._cur_epoch = epoch
        for i, batch in enumerate(batches(rows, generator)):
            codes, decoded, losses = model(batch, step="train")
            sum(losses.values()).backward()
            torch.nn.utils.clip_grad_value_(model.parameters(), CLIP)
            optimizer.step()
            optimizer.zero_grad()
            schedule.step(epoch + (i + 1) / n_batches)
            with torch.no_grad():
                error += float(((decoded - batch) ** 2).sum())
                used += torch.stack([torch.bincount(chosen, minlength=cfg.K) for chosen in codes])
        if epoch + 1 < epochs:
            with torch.no_grad():
                model.reset_unused_codebooks(used)
        seconds = time.perf_counter() - began
        console.print(f"epoch {epoch + 1}: squared error {error / len(rows):.4f}, {seconds:.0f} s")
    return model.eval()


def decoded(model: Any, vectors: Float32) -> Float32:
    """Return what the codes of vectors stand for."""
    with torch.no_grad():
        parts = [
            model(model(part, step="encode"), step="decode")
            for part in torch.from_numpy(vectors).split(BATCH)
        ]
    return torch.cat(parts).numpy()  # type: ignore[no-any-return]


def report(name: str, truth: GroundTruth, vectors: Float32, queries: Float32) -> None:
    """Print what exact search over decoded vectors finds, by both metrics."""
    for metric, index in (("ip", faiss.IndexFlatIP), ("l2", faiss.IndexFlatL2)):
        built = index(vectors.shape[1])
        built.add(vectors)
        found = built.search(queries, 100)[1]
        shares = recall_of_neighbors(truth, found, [10], [100]).per_query
        told = ", ".join(f"{column} {interval(estimate(of[:, None])[0])}" for column, of in shares.items())
        console.print(f"{name}, {metric}: {told}")


def main() -> None:
    """Print recall@10 and 10-recall@100 of held-out queries."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of the vectors")
    parser.add_argument("--clone", type=Path, required=True, help="clone of the authors' repository")
    parser.add_argument("--set", default="wordnet-minilm-384", help="(default: %(default)s)")
    parser.add_argument("--bytes", type=int, default=24, help="codebooks (default: %(default)s)")
    parser.add_argument("--width", type=int, default=192, help="of the PCA before (default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=20, help="(default: %(default)s)")
    parser.add_argument("--candidates", type=int, default=4, help="A of the paper (default: %(default)s)")
    parser.add_argument("--beam", type=int, default=4, help="B (default: %(default)s)")
    parser.add_argument("--blocks", type=int, default=1, help="L (default: %(default)s)")
    parser.add_argument("--embedding", type=int, default=64, help="de (default: %(default)s)")
    parser.add_argument("--hidden", type=int, default=32, help="dh (default: %(default)s)")
    parser.add_argument("--rows", type=int, help="of the base to learn from and search (default: all)")
    given = parser.parse_args()
    theirs = Theirs.of(given.clone)
    base, queries = (normalize_rows(part) for part in load(given.data, given.set))
    base = np.ascontiguousarray(base[: given.rows])
    truth = GroundTruth.compute(base, queries, 10, "cosine")
    if given.width < base.shape[1]:
        fold = PCA(given.width, center=False).fit(base).encoder_
        base, queries = fold.transform(base), fold.transform(queries)
    report("the vectors themselves", truth, base, queries)
    cfg = settings(given, base)
    began = time.perf_counter()
    model = learn(theirs, cfg, base, given.epochs)
    learned = time.perf_counter()
    images = decoded(model, base)
    seconds = time.perf_counter() - learned
    weights = sum(part.numel() for part in model.parameters())
    error = ((images - base) ** 2).sum(axis=1).mean()
    console.print(
        f"learned in {learned - began:.0f} s, {len(base) / seconds:,.0f} rows/s encoded and decoded, "
        f"{weights * 4 / 1e6:.1f} MB of weights, squared error {error:.4f}"
    )
    report(f"QINCo2, {given.bytes} bytes", truth, images, queries)


if __name__ == "__main__":
    main()
