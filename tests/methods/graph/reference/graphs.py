"""The explanatory graph in loops over images, filters, patterns and units: slow, and as the paper writes it."""

import itertools

import numpy as np


def gaussian(point, centre, width):
    """N(point; centre, width^2 I) in the plane."""
    square = sum((a - b) ** 2 for a, b in zip(point, centre, strict=True))
    return np.exp(-square / (2 * width**2)) / (2 * np.pi * width**2)


def explain(maps, x, y, position, width, shift, level, tau, window=np.inf):
    """Mass, first and second moments and likelihood, by unit."""
    images, filters, height, columns = maps.shape
    patterns = width.shape[1]
    mass, second = np.zeros((2, images, filters, patterns))
    first, likelihood = np.zeros((images, filters, patterns, 2)), np.zeros(images)
    for i, c, row, column in np.ndindex(images, filters, height, columns):
        point, density = np.array([x[column], y[row]]), np.zeros(patterns)
        for p in range(patterns):
            centre = position[c, p] + shift[i, c, p]
            if abs(point - centre).max() <= window:
                density[p] = np.exp(level[i, c, p]) * gaussian(point, centre, width[c, p])
        whole, response = density.sum() + tau, maps[i, c, row, column]
        if response > 0:
            likelihood[i] += response * np.log(whole / (patterns + 1))
        for p in range(patterns):
            share = response * density[p] / whole
            away = point - shift[i, c, p] - position[c, p]
            mass[i, c, p] += share
            first[i, c, p] += share * away
            second[i, c, p] += share * (away**2).sum()
    return mass, first, second, likelihood


def take(maps, x, y, position, width, shift, level, background):
    """Of each pattern the unit with the largest (F + b) P, the first of equals, and F P there."""
    images, filters, height, columns = maps.shape
    patterns = width.shape[1]
    cell, score = np.zeros((images, filters, patterns), int), np.zeros((images, filters, patterns))
    for i, c, p in np.ndindex(images, filters, patterns):
        best = -np.inf
        for row, column in np.ndindex(height, columns):
            density = np.exp(level[i, c, p]) * gaussian(
                (x[column], y[row]), position[c, p] + shift[i, c, p], width[c, p]
            )
            value = (maps[i, c, row, column] + background) * density
            if value > best:
                best, cell[i, c, p] = value, row * columns + column
                score[i, c, p] = maps[i, c, row, column] * density
    return cell, score


def expected_log(points, owner, parents, shift, spread, mu):
    """Sum over the units that a pattern owns of log of the product of its parents' Gaussians to the power 1 / M.

    ``points[i]`` are the units of image i and ``owner[i]`` what the pattern owns of each.
    """
    total = 0.0
    for i, (units, owned) in enumerate(zip(points, owner, strict=True)):
        for point, share in zip(units, owned, strict=True):
            total += share * np.mean([np.log(gaussian(point, mu + shift[i, v], spread[v])) for v in parents])
    return total


def best_parents(points, owner, shift, spread, mu, number):
    """The set of so many parents that makes what the pattern owns likeliest, of all such sets."""
    sets = itertools.combinations(range(len(spread)), number)
    return set(max(sets, key=lambda parents: expected_log(points, owner, parents, shift, spread, mu)))
