"""Slow NumPy loops for the filter losses: the released MATLAB backward, and Eq. (1) and (4) of the CVPR 2018 paper."""

import numpy as np


def matlab_centre(x, centre):
    """Row and column from 1 of one map, as getMu.m has them; argmax is this package's, first row by row."""
    n_rows, n_columns = x.shape
    if centre == "argmax":
        row, column = np.unravel_index(x.argmax(), x.shape)
        return int(row) + 1, int(column) + 1
    total = max(x.sum(), 1e-9)
    row = sum(r * x[r - 1, c - 1] for r in range(1, n_rows + 1) for c in range(1, n_columns + 1)) / total
    column = sum(c * x[r - 1, c - 1] for r in range(1, n_rows + 1) for c in range(1, n_columns + 1)) / total
    # MATLAB rounds half away from zero.
    return max(int(np.floor(row + 0.5)), 1), max(int(np.floor(column + 0.5)), 1)


def matlab_mask(x, centre, w3=2.0):
    """getMask.m, with a table for each axis."""
    rows, columns = np.linspace(-1, 1, x.shape[0]), np.linspace(-1, 1, x.shape[1])
    row, column = matlab_centre(x, centre)
    mask = np.empty_like(x)
    for i, p in enumerate(rows):
        for j, q in enumerate(columns):
            mask[i, j] = max(1 - w3 * (abs(p - rows[row - 1]) + abs(q - columns[column - 1])), -1)
    return mask


def matlab_gradient(x, member, classes, assignment, centre, w_pos, w_neg, a=0.5):
    """What our_vl_simplenn.m adds to the gradient, per unit of 1e-5 mag / epoch, before the division by the batch size.

    ``x`` (B, F, H, W), ``member`` (B, K), ``w_pos`` and ``w_neg`` (K,).
    """
    batch, filters = x.shape[:2]
    mask = np.array([[matlab_mask(x[b, f], centre) for f in range(filters)] for b in range(batch)])
    gradient = np.zeros_like(x)
    for f in range(filters):
        s = np.array([(x[b, f] * mask[b, f]).mean() for b in range(batch)])
        m = np.array([x[b, f].mean() for b in range(batch)])
        flipped = [(x[b, f] * mask[batch - 1 - b, filters - 1 - f]).mean() for b in range(batch)]
        lzp = a * np.log(np.mean([np.exp(e / a) for e in flipped]))
        lzn = a * np.log(np.mean(np.exp(-m / a)))
        for c in range(classes):
            if assignment[f] != c:
                continue
            inside = [b for b in range(batch) if member[b, c]]
            outside = [b for b in range(batch) if not member[b, c]]
            u = {b: np.exp(s[b] / a) * (s[b] - lzp + a) for b in inside}
            v = {b: np.exp(-m[b] / a) * (-m[b] - lzn + a) for b in outside}
            for b in inside:
                gradient[b, f] -= mask[b, f] * u[b] / np.mean(list(u.values())) * w_pos[c]
            for b in outside:
                gradient[b, f] += v[b] / np.mean(list(v.values())) * w_neg[c]
    return gradient


def paper_templates(n_rows, n_columns, beta=4.0):
    """The templates of all positions and the flat one, without tau, as a list of maps."""
    templates = []
    for row in range(n_rows):
        for column in range(n_columns):
            template = np.empty((n_rows, n_columns))
            for i in range(n_rows):
                for j in range(n_columns):
                    template[i, j] = max(1 - beta * (abs(i - row) / n_rows + abs(j - column) / n_columns), -1)
            templates.append(template)
    return [*templates, -np.ones((n_rows, n_columns))]


def information_loss(x, tau):
    """Eq. (1) of one filter, ``x`` (B, H, W), and the right-hand side of Eq. (4) as it is printed, tau absolute."""
    templates = [tau * t for t in paper_templates(*x.shape[1:])]
    prior = 1 / len(templates)
    energy = np.array([[(image * t).sum() for t in templates] for image in x])
    z = np.exp(energy).sum(0)
    likelihood = np.exp(energy) / z
    evidence = likelihood.sum(1) * prior
    loss, gradient = 0.0, np.zeros_like(x)
    for b in range(len(x)):
        for k, template in enumerate(templates):
            ratio = np.log(likelihood[b, k] / evidence[b])
            loss -= prior * likelihood[b, k] * ratio
            bracket = energy[b, k] - np.log(z[k] * evidence[b])
            gradient[b] += prior * template * np.exp(energy[b, k]) / z[k] * bracket
    return loss, gradient
