"""Numbers whose bits depend on no mathematics library: rotary tables and the loss's logarithm.

The last bits of `exp`, `log`, `pow`, `sin` and `cos` differ between C libraries, between numpy's dispatch
targets and between processors. Here a number comes from integers, from decimal arithmetic, or from + - * and
square roots in float64, which IEEE 754 fixes; one rounding to float32 ends each computation. The first weights and
the frequencies of the tables are made in the same way, in `pipeline/formats/initial.py` and `rotary.py`.
"""

from decimal import Context, Decimal, localcontext

import numpy as np
import numpy.typing as npt

from pipeline.formats.model import RotaryScaling
from pipeline.formats.rotary import frequencies

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]

_PI_HALVES = Decimal("1.57079632679489661923132169163975144209858469968755")
_LOG_2 = Decimal("0.69314718055994530941723212145817656807550013436026")


def rotary_tables(base: float, width: int, length: int, scaling: RotaryScaling | None = None) -> tuple[Floats, Floats]:
    """Cosines and sines of the angles of rotary position embedding, each (length, width / 2).

    The angle at a position is the position times the frequency, rounded to float32: that is what Llama computes, and
    at position 2047 it moves an angle by up to 1e-4.
    """
    frequency = frequencies(base, width, scaling)
    return cosine_and_sine(np.outer(np.arange(length, dtype=np.float32), frequency).astype(np.float32))


def cosine_and_sine(angle: Floats) -> tuple[Floats, Floats]:
    """Cosine and sine of float32 angles in [0, 2^20), by reduction to [-pi/4, pi/4] and Taylor's series.

    Cody and Waite (1980): pi/2 is split into three parts of 30 bits, so that multiples below 2^20 are exact. The
    error in float64 is below 1e-15, so the float32 results are the correctly rounded ones but for near ties.
    """
    x = angle.astype(np.float64)
    quarter = np.rint(x * float(1 / _PI_HALVES))
    for part in _split(_PI_HALVES, bits=30, parts=3):
        x = x - quarter * part
    square = x * x
    sine, cosine = np.ones_like(x), np.ones_like(x)
    for n in range(20, 0, -2):
        sine = 1 - square * sine / (n * (n + 1))
        cosine = 1 - square * cosine / (n * (n - 1))
    sine = x * sine
    turn = quarter.astype(np.int64) % 4
    quadrants = [turn == 0, turn == 1, turn == 2, turn == 3]
    return (
        np.select(quadrants, [cosine, -sine, -cosine, sine]).astype(np.float32),
        np.select(quadrants, [sine, cosine, -sine, -cosine]).astype(np.float32),
    )


def logarithm(x: Floats) -> Floats:
    """Natural logarithm of positive float32 numbers."""
    rounded: Floats = logarithm64(x.astype(np.float64)).astype(np.float32)
    return rounded


def logarithm64(x: Doubles) -> Doubles:
    """Natural logarithm of positive float64 numbers: 2 artanh((m - 1) / (m + 1)) + e log 2 for x = m 2^e.

    m is in [1/2, 1), where 17 terms of artanh's series leave an error below 1e-17; rounding in float64 adds 1e-15.
    """
    m, e = np.frexp(x)
    s = (m - 1) / (m + 1)
    square = s * s
    series = np.zeros_like(s)
    for n in range(33, 0, -2):
        series = series * square + 1 / n
    logarithm: Doubles = 2 * s * series + e * float(_LOG_2)
    return logarithm


def _split(number: Decimal, bits: int, parts: int) -> list[float]:
    """Floats that sum to `number`; each but the last holds at most `bits` significant bits."""
    split = []
    with localcontext(Context(prec=60)):
        for part in range(1, parts + 1):
            scale = 2 ** (bits * part - 1)
            piece = Decimal(int(number * scale)) / scale
            split.append(float(piece if part < parts else number))
            number -= piece
    return split
