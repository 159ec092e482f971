"""Binary attributes with chosen correlations: their joint distribution, and draws from it."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from lightning_interp.errors import DatasetError, check_names

Pair = tuple[str, str]
Correlations = Mapping[str, float] | Mapping[Pair, float] | Mapping[str | Pair, float]
"""rho by pair of attributes; a name alone stands for its pair with the first attribute, the target."""

_Floats = NDArray[np.float64]
_SWEEPS = 1000
# A sweep that misses every P(a = b) by less than the first has converged. Correlations that only just can be met
# are approached slowly, as one over the number of sweeps; they are met to the second.
_CONVERGED, _TOLERATED = 1e-12, 5e-4


def checked_pairs(names: Sequence[str], correlations: Correlations) -> dict[Pair, float]:
    """Correlation by pair, each pair in the order of ``names``.

    Raises:
        DatasetError: If an attribute is unknown or stands with itself, a pair stands twice, or rho is not in [-1, 1].
    """
    pairs: dict[Pair, float] = {}
    for key, rho in correlations.items():
        pair = (names[0], key) if isinstance(key, str) else tuple(key)
        for name in pair:
            check_names([name], names, "attribute")
        if len(set(pair)) != 2 or len(pair) != 2 or not -1 <= rho <= 1:
            message = f"give correlations in [-1, 1] of other attributes with {names[0]}, or of two attributes"
            raise DatasetError(f"correlations[{key!r}] = {rho}: {message}")
        first, second = sorted(pair, key=names.index)
        if (first, second) in pairs:
            raise DatasetError(f"correlations[{key!r}]: this pair has a correlation already")
        pairs[first, second] = float(rho)
    return pairs


def joint_table(names: Sequence[str], pairs: Mapping[Pair, float]) -> _Floats:
    """The joint distribution of binary attributes that has these correlations and nothing else in it.

    Every attribute is 1 with probability 1/2, and P(a = b) = (1 + rho) / 2 for each pair given. Of all such
    distributions it is the one of maximum entropy: attributes that no chain of pairs connects are independent, those
    at the ends of a chain a - b - c have the product of its correlations, and no third-order relation is put in.
    Found by iterative proportional fitting (Deming and Stephan 1940), which is exact after one sweep if the pairs
    form no cycle.

    Args:
        names: The K attributes.
        pairs: rho by pair, from :func:`checked_pairs`.

    Returns:
        ``(2,) * K`` float64 probabilities, one axis an attribute.

    Raises:
        DatasetError: If some of the pairs contradict each other, naming the fewest that do; for instance three
            attributes cannot all be correlated by less than -1/3.

    Example:
        >>> joint_table(("lipstick", "makeup"), {("lipstick", "makeup"): 0.5}).tolist()
        [[0.375, 0.125], [0.125, 0.375]]
    """
    table = _fitted(names, pairs)
    if table is not None:
        return table
    conflict = dict(pairs)
    for pair in pairs:
        rest = {other: rho for other, rho in conflict.items() if other != pair}
        if _fitted(names, rest) is None:
            conflict = rest
    listed = ", ".join(f"{first}-{second} {rho:g}" for (first, second), rho in conflict.items())
    raise DatasetError(f"no faces can have these correlations together: {listed}")


def _fitted(names: Sequence[str], pairs: Mapping[Pair, float]) -> _Floats | None:
    table: _Floats = np.full((2,) * len(names), 0.5 ** len(names))
    values = np.indices(table.shape)
    wanted = []
    for (first, second), rho in pairs.items():
        equal = values[names.index(first)] == values[names.index(second)]
        wanted += [(equal, (1 + rho) / 2), (~equal, (1 - rho) / 2)]
    missed = 0.0
    for _ in range(_SWEEPS):
        for cells, share in wanted:
            # Cells without a chance left stay so: then the pairs contradict each other, and the last test tells.
            table[cells] *= share / (table[cells].sum() or 1)
        missed = max((abs(table[cells].sum() - share) for cells, share in wanted), default=0.0)
        if missed < _CONVERGED:
            break
    return table if missed < _TOLERATED else None


def draw_attributes(table: _Floats, dice: Sequence[_Floats]) -> list[NDArray[np.int64]]:
    """Draw each attribute given those before it.

    Args:
        table: From :func:`joint_table`, K attributes.
        dice: K columns of ``(N,)`` uniform numbers in [0, 1).

    Returns:
        K columns of ``(N,)`` 0 and 1. A die below 1/2 makes the first attribute 1; a die below their conditional
        probability of being equal makes another attribute equal to the first. So a rise of one correlation with the
        first turns some rows over to "equal" and leaves all others as they are.
    """
    first = dice[0] < 0.5
    drawn = [first.astype(np.int64)]
    for position, die in enumerate(dice[1:], start=1):
        chances = table.sum(axis=tuple(range(position + 1, table.ndim)))[tuple(drawn)]
        equal = die < chances[np.arange(len(die)), drawn[0]] / chances.sum(axis=1)
        drawn.append((equal == first).astype(np.int64))
    return drawn
