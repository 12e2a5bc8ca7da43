"""RAE as published, which is a linear autoencoder trained by Adam on mini-batches (arXiv 2509.25839).

The loss is the mean over elements of (W_d (W_e x + b_e) + b_d - x)^2. With Z = X W_e^T and the residual
R = Z W_d^T - X of one batch, the gradients are R^T Z for the decoder and (R W_d)^T X for the encoder, times
2 / (batch d). These are four products, which need no automatic differentiation.

The latent dimensions are split over threads. A thread owns its rows of the encoder and columns
of the decoder, with their optimiser state, so that nothing large moves between cores; once a
step the threads exchange their parts of the reconstruction, and that is all.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from nearfold._utils.arrays import Float32
from nearfold._utils.progress import stage
from nearfold._utils.threads import blas_threads, single_threaded_blas
from nearfold.methods.adam import Adam
from nearfold.methods.rae.regularizers import Penalty

__all__ = ["Autoencoder", "cosine_rates", "draw_batches", "initial_autoencoder", "train_autoencoder"]

# More threads than this spend their time exchanging: the part they share grows with their number.
_MAX_THREADS = 4


@dataclass(frozen=True, eq=False)
class Autoencoder:
    """The parameters of a linear autoencoder; biases are None or both given.

    Parameters
    ----------
    encoder : ndarray of shape (m, d), float32
        W_e.
    decoder : ndarray of shape (d, m), float32
        W_d.
    encoder_bias : ndarray of shape (m,), float32, or None, default=None
        b_e.
    decoder_bias : ndarray of shape (d,), float32, or None, default=None
        b_d.
    """

    encoder: Float32
    decoder: Float32
    encoder_bias: Float32 | None = None
    decoder_bias: Float32 | None = None


def initial_autoencoder(d: int, m: int, rng: np.random.Generator, *, bias: bool) -> Autoencoder:
    """Draw parameters uniformly within 1 / sqrt(fan-in), as torch.nn.Linear does.

    Parameters
    ----------
    d, m : int
        Number of dimensions and of reduced dimensions.
    rng : numpy.random.Generator
        Draws the parameters.
    bias : bool
        Whether there are biases.

    Returns
    -------
    Autoencoder
    """

    def draw(fan_in: int, *shape: int) -> Float32:
        bound = 1 / np.sqrt(fan_in)
        return rng.uniform(-bound, bound, shape).astype(np.float32)

    encoder, decoder = draw(d, m, d), draw(m, d, m)
    return Autoencoder(encoder, decoder, draw(d, m), draw(m, d)) if bias else Autoencoder(encoder, decoder)


def draw_batches(n: int, batch_size: int, n_steps: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Return which rows each step takes, by one shuffle of all rows after another.

    Parameters
    ----------
    n, batch_size, n_steps : int
        Number of rows, of rows in a step at most, and of steps.
    rng : numpy.random.Generator
        Shuffles the rows.

    Returns
    -------
    ndarray of shape (n_steps, min(batch_size, n)), int64
    """
    batch = min(batch_size, n)
    epochs = -(-n_steps * batch // n)
    order = np.concatenate([rng.permutation(n) for _ in range(epochs)])
    return order[: n_steps * batch].reshape(n_steps, batch)


def cosine_rates(n_steps: int, first: float, last: float) -> npt.NDArray[np.float64]:
    """Return learning rates that fall from `first` towards `last` along half a cosine.

    Parameters
    ----------
    n_steps : int
        Number of steps.
    first, last : float
        Rate of the first step, and of the one that would come after the last.

    Returns
    -------
    ndarray of shape (n_steps,), float64
    """
    phase = np.arange(n_steps) / n_steps
    return last + (first - last) * (1 + np.cos(np.pi * phase)) / 2


def train_autoencoder(
    X: Float32,
    start: Autoencoder,
    batches: npt.NDArray[np.int64],
    rates: npt.NDArray[np.float64],
    weight_decay: float,
    penalise: Callable[[float], Penalty] | None = None,
) -> tuple[Autoencoder, float]:
    """Train an autoencoder by Adam.

    Parameters
    ----------
    X : ndarray of shape (n, d), float32
        Rows to learn from.
    start : Autoencoder
        Initial parameters, which are not changed.
    batches : ndarray of shape (n_steps, batch), int64
        Row numbers of each step.
    rates : ndarray of shape (n_steps,), float64
        Learning rate of each step.
    weight_decay : float
        Coupled weight decay lambda, on biases too, as torch.optim.Adam applies it.
    penalise : callable, optional
        Takes the factor that gradients are scaled by, and returns another penalty to add. It needs whole
        matrices, so that training then uses BLAS's threads and none of its own.

    Returns
    -------
    trained : Autoencoder
        The trained parameters.
    loss : float
        Loss of the last batch without the penalty.
    """
    m, d = start.encoder.shape
    n_threads = max(1, min(blas_threads(), _MAX_THREADS, m // 8)) if penalise is None else 1
    bounds = [m * i // n_threads for i in range(n_threads + 1)]
    exchange = _Exchange(n_threads, batches.shape[1], d)
    scale = 2 / (batches.shape[1] * d)
    penalty = None if penalise is None else penalise(scale)
    slices = [_Slice(start, low, high, weight_decay, scale, penalty) for low, high in pairwise(bounds)]
    threads: AbstractContextManager[Any] = nullcontext() if n_threads == 1 else single_threaded_blas()
    with stage("RAE", len(batches), "steps") as advance, threads:
        helpers = [
            threading.Thread(target=exchange.guard, args=(i, slices[i].train, X, batches, rates, None))
            for i in range(1, n_threads)
        ]
        for helper in helpers:
            helper.start()
        exchange.guard(0, slices[0].train, X, batches, rates, advance)
        for helper in helpers:
            helper.join()
    if exchange.failure is not None:
        raise exchange.failure
    trained = Autoencoder(
        encoder=np.concatenate([s.encoder for s in slices]),
        decoder=np.concatenate([s.decoder_t for s in slices]).T,
        encoder_bias=None if start.encoder_bias is None else np.concatenate([s.encoder_bias for s in slices]),
        decoder_bias=None if start.decoder_bias is None else slices[0].decoder_bias,
    )
    return trained, slices[0].last_loss


class _Exchange:
    """The place where threads leave their part of a batch's reconstruction and wait for those of others.

    Two sets of buffers alternate: a thread that is a step ahead writes where nobody reads.
    """

    def __init__(self, n_threads: int, batch: int, d: int) -> None:
        self.parts = np.empty((2, n_threads, batch, d), np.float32)
        self.failure: BaseException | None = None
        self._arrived = [0] * n_threads

    def wait(self, i: int) -> None:
        """Return when every thread has arrived as often as thread i has."""
        self._arrived[i] += 1
        mine = self._arrived[i]
        # The wait is shorter than waking a sleeping thread takes: yield instead of sleeping.
        while min(self._arrived) < mine:
            if self.failure is not None:
                raise _StoppedError
            time.sleep(0)

    def guard(
        self,
        i: int,
        train: Callable[..., None],
        X: Float32,
        batches: npt.NDArray[np.int64],
        rates: npt.NDArray[np.float64],
        advance: Callable[[int], None] | None,
    ) -> None:
        """Run a slice's training; on any failure, an interrupt included, stop the others."""
        try:
            train(i, self, X, batches, rates, advance)
        except _StoppedError:
            pass
        except BaseException as error:
            # The caller raises it, when all have stopped.
            self.failure = error


class _StoppedError(Exception):
    """Another thread failed."""


class _Slice:
    """The latent dimensions from `low` to `high` of the autoencoder, and their training."""

    def __init__(
        self,
        start: Autoencoder,
        low: int,
        high: int,
        weight_decay: float,
        scale: float,
        penalty: Penalty | None,
    ) -> None:
        self._penalty = penalty
        d = start.encoder.shape[1]
        h = high - low
        self.has_bias = start.encoder_bias is not None
        owns_output = self.has_bias and low == 0
        # One flat array: encoder rows, decoder columns, encoder bias, decoder bias.
        sizes = [h * d, h * d, h * self.has_bias, d * owns_output]
        self._cuts = np.cumsum(sizes)[:-1]
        self._shape = (h, d)
        flat = np.empty(sum(sizes), np.float32)
        self.encoder, self.decoder_t, self.encoder_bias, self.decoder_bias = self._views(flat)
        self.encoder[...] = start.encoder[low:high]
        self.decoder_t[...] = start.decoder[:, low:high].T
        if start.encoder_bias is not None:
            self.encoder_bias[...] = start.encoder_bias[low:high]
        if owns_output and start.decoder_bias is not None:
            self.decoder_bias[...] = start.decoder_bias
        self._adam = Adam(flat, weight_decay=weight_decay, scale=scale)
        self.last_loss = 0.0

    def _views(self, flat: Float32) -> tuple[Float32, Float32, Float32, Float32]:
        encoder, decoder_t, encoder_bias, decoder_bias = np.split(flat, self._cuts)
        return encoder.reshape(self._shape), decoder_t.reshape(self._shape), encoder_bias, decoder_bias

    def train(
        self,
        i: int,
        exchange: _Exchange,
        X: Float32,
        batches: npt.NDArray[np.int64],
        rates: npt.NDArray[np.float64],
        advance: Callable[[int], None] | None,
    ) -> None:
        """Run all steps of this slice, as thread `i`."""
        h, d = self._shape
        batch = batches.shape[1]
        x, residual = np.empty((batch, d), np.float32), np.empty((batch, d), np.float32)
        z, dz = np.empty((batch, h), np.float32), np.empty((batch, h), np.float32)
        for_encoder, for_decoder_t, for_encoder_bias, for_decoder_bias = self._views(self._adam.gradient)
        for step, (rows, rate) in enumerate(zip(batches, rates, strict=True)):
            np.take(X, rows, axis=0, out=x, mode="clip")
            np.matmul(x, self.encoder.T, out=z)
            if self.has_bias:
                z += self.encoder_bias
            parts = exchange.parts[step & 1]
            np.matmul(z, self.decoder_t, out=parts[i])
            if self.decoder_bias.size:
                parts[i] += self.decoder_bias
            exchange.wait(i)
            np.subtract(parts[0], x, out=residual)
            for other in parts[1:]:
                residual += other
            np.matmul(z.T, residual, out=for_decoder_t)
            np.matmul(residual, self.decoder_t.T, out=dz)
            np.matmul(dz.T, x, out=for_encoder)
            if self.has_bias:
                dz.sum(axis=0, out=for_encoder_bias)
            if self.decoder_bias.size:
                residual.sum(axis=0, out=for_decoder_bias)
            if self._penalty is not None:
                self._penalty(self.encoder, self.decoder_t, for_encoder, for_decoder_t)
            self._adam.step(rate)
            if advance is not None:
                advance(1)
        self.last_loss = float(np.square(residual).mean())
