"""Location measures the slow way: one filter, one landmark, one image at a time, with plain numbers."""

import math
import statistics


def first_peak(flat):
    """``(value, cell)`` of one map given as a row-major list; no cell if it is constant or not finite."""
    if not all(math.isfinite(v) for v in flat):
        return -math.inf, -1
    top = max(flat)
    return top, -1 if min(flat) == top else flat.index(top)


def cell_centre(cell, grid):
    row, column = divmod(cell, grid.columns.length)
    return grid.columns.first + column * grid.columns.step, grid.rows.first + row * grid.rows.step


def images_of(value, cell, shown, k, replace):
    """Images by falling peak, lower number first; those without the landmark replaced or only dropped."""
    ranked = sorted((i for i in range(len(value)) if cell[i] >= 0), key=lambda i: (-value[i], i))
    if replace:
        return [i for i in ranked if shown[i]][:k]
    return [i for i in ranked[:k] if shown[i]]


def location_row(value, cell, landmark, grid, k, replace=True):
    """All measures of one filter (``value``, ``cell`` by image) with one landmark (``(x, y)`` or None by image)."""
    size = math.hypot(grid.columns.size, grid.rows.size)
    images = images_of(value, cell, [place is not None for place in landmark], k, replace)
    if len(images) < 2:
        return None
    peaks = [cell_centre(cell[i], grid) for i in images]
    places = [landmark[i] for i in images]
    cells = [cell_centre(c, grid) for c in range(grid.rows.length * grid.columns.length)]
    centre = ((grid.columns.size - 1) / 2, (grid.rows.size - 1) / 2)

    def deviation(points):
        return statistics.stdev([math.dist(a, b) for a, b in zip(points, places, strict=True)]) / size

    return {
        "filter": deviation(peaks),
        "centre": deviation([centre] * len(images)),
        "best_constant": min(deviation([cell] * len(images)) for cell in cells),
        "oracle": deviation([min(cells, key=lambda c, p=p: math.dist(c, p)) for p in places]),
        "correlation": correlation(peaks, places),
        "r2": r_squared(peaks, places),
        "images": len(images),
    }


def correlation(peaks, places):
    joint = sum(covariance([p[a] for p in peaks], [q[a] for q in places]) for a in (0, 1))
    own = sum(statistics.variance([p[a] for p in peaks]) for a in (0, 1))
    other = sum(statistics.variance([q[a] for q in places]) for a in (0, 1))
    return joint / math.sqrt(own * other) if own else 0.0


def r_squared(peaks, places):
    left = sum(statistics.variance([q[a] - p[a] for p, q in zip(peaks, places, strict=True)]) for a in (0, 1))
    return 1 - left / sum(statistics.variance([q[a] for q in places]) for a in (0, 1))


def covariance(a, b):
    return sum((x - statistics.mean(a)) * (y - statistics.mean(b)) for x, y in zip(a, b, strict=True)) / (len(a) - 1)
