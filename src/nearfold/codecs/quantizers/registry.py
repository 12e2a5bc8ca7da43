"""The quantisers: the one list that names, fitting, files and the planner read."""

from __future__ import annotations

from typing import TypeAlias

from nearfold.codecs.quantizers.additive import Additive
from nearfold.codecs.quantizers.base import JointQuantizer, QuantizerSpec, TrainedQuantizer
from nearfold.codecs.quantizers.binary import Binary
from nearfold.codecs.quantizers.floats import Floats
from nearfold.codecs.quantizers.product import Product
from nearfold.codecs.quantizers.rabitq import RaBitQ
from nearfold.codecs.quantizers.rotated import Rotated
from nearfold.codecs.quantizers.scalar import Scalar
from nearfold.errors import ParameterError

__all__ = ["NAMES", "QUANTIZERS", "Family", "family_of", "parse_quantizer"]

Family: TypeAlias = type[TrainedQuantizer] | type[JointQuantizer]
"""What a quantiser's file defines: a class, whose instances are trained."""

QUANTIZERS: tuple[Family, ...] = (Floats, Scalar, Binary, RaBitQ, Product, Rotated, Additive)
"""The families of quantisers, in the order in which the planner tries them."""

NAMES = tuple(name for family in QUANTIZERS for name in family.names)
"""The names of all of them, for messages."""


def parse_quantizer(text: str) -> tuple[Family, QuantizerSpec] | None:
    """Return the family of a quantiser's name, and what the name says; None where there is none."""
    for family in QUANTIZERS:
        spec = family.parse(text)
        if spec is not None:
            return family, spec
    return None


def family_of(spec: QuantizerSpec) -> Family:
    """Return the family that a quantiser belongs to.

    Raises
    ------
    ParameterError
        There is none.
    """
    found = parse_quantizer(str(spec))
    if found is None:
        raise ParameterError(f"quantiser {str(spec)!r} is unknown; use {', '.join(NAMES)}")
    return found[0]
