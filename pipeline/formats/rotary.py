"""Frequencies of rotary position embedding: the same bits on any machine, and without torch.

Powers come from decimal arithmetic, the rest from + - * / in float32, which IEEE 754 fixes.
"""

from decimal import Context, Decimal, localcontext
from math import pi

import numpy as np
import numpy.typing as npt

from pipeline.formats.model import RotaryScaling

Floats = npt.NDArray[np.float32]


def frequencies(base: float, width: int, scaling: RotaryScaling | None = None) -> Floats:
    """Angle of each pair of dimensions from one position to the next, (width / 2).

    That of pair i is base^(-2i / width) (Su et al., 2021, section 3.2.2). Exponent, power and frequency are rounded to
    float32 one after another, as Llama does.
    """
    exponent = np.arange(0, width, 2, dtype=np.float32) / np.float32(width)
    with localcontext(Context(prec=40)):
        power = np.array([float(Decimal(base) ** Decimal(float(e))) for e in exponent], np.float32)
    frequency = np.float32(1) / power
    return frequency if scaling is None else _scaled(frequency, scaling)


def _scaled(frequency: Floats, scaling: RotaryScaling) -> Floats:
    """Slow down as `RotaryScaling` says, by wavelengths: what turns n times has the wavelength context / n."""
    one, low, high, factor, context, turn = np.array(
        [
            1,
            scaling.low_frequency_factor,
            scaling.high_frequency_factor,
            scaling.factor,
            scaling.original_context,
            2 * pi,
        ],
        np.float32,
    )
    wavelength = turn / frequency
    share = (context / wavelength - low) / (high - low)
    between = (one - share) * frequency / factor + share * frequency
    is_long, is_short = wavelength > context / low, wavelength < context / high
    scaled: Floats = np.select([is_long, is_short], [frequency / factor, frequency], between)
    return scaled
