"""The published RAE in plain torch (arXiv 2509.25839): what ours is measured and checked against."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from nearfold.methods.rae.gradient import Autoencoder

__all__ = ["train_with_torch"]


def train_with_torch(
    X: npt.NDArray[np.float32],
    start: Autoencoder,
    batches: npt.NDArray[np.int64],
    n_steps: int,
    weight_decay: float,
    learning_rate: float = 1e-3,
    final_learning_rate: float = 1e-5,
) -> Autoencoder:
    """Train a linear autoencoder by torch's own autograd, Adam and cosine schedule."""
    m, d = start.encoder.shape
    bias = start.encoder_bias is not None
    encoder, decoder = torch.nn.Linear(d, m, bias=bias), torch.nn.Linear(m, d, bias=bias)
    with torch.no_grad():
        encoder.weight.copy_(torch.from_numpy(start.encoder))
        decoder.weight.copy_(torch.from_numpy(np.ascontiguousarray(start.decoder)))
        if bias:
            encoder.bias.copy_(torch.from_numpy(start.encoder_bias))
            decoder.bias.copy_(torch.from_numpy(start.decoder_bias))
    parameters = [*encoder.parameters(), *decoder.parameters()]
    adam = torch.optim.Adam(parameters, lr=learning_rate, weight_decay=weight_decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(adam, n_steps, final_learning_rate)
    data, order = torch.from_numpy(X), torch.from_numpy(batches)
    for rows in order:
        x = data[rows]
        adam.zero_grad()
        loss = torch.nn.functional.mse_loss(decoder(encoder(x)), x)
        loss.backward()
        adam.step()
        schedule.step()
    trained = [p.detach().numpy() for p in (encoder.weight, decoder.weight)]
    biases = [p.detach().numpy() for p in (encoder.bias, decoder.bias)] if bias else [None, None]
    return Autoencoder(*trained, *biases)
