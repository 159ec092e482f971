"""Maps of which it is known where the parts are that made them."""

import threading

import torch

from lightning_interp.functional.upsampling import Axis, Grid
from lightning_interp.methods.graph.maths.infer import LayerMaps


def grid_of(height, width, stride):
    """Equal cells of so many pixels."""
    return Grid(Axis.cells(height, height * stride), Axis.cells(width, width * stride))


def blobs(places, grid, width):
    """``(N, C, h, w)``: filter c of image i fires around each of ``places[i, c]``, ``(N, C, P, 2)`` in pixels."""
    x, y = (torch.tensor(axis.anchors) for axis in (grid.columns, grid.rows))
    gx = torch.exp(-0.5 * ((x - places[..., :1]) / width) ** 2)
    gy = torch.exp(-0.5 * ((y - places[..., 1:]) / width) ** 2)
    return torch.einsum("ncph,ncpw->nchw", gy.double(), gx.double()).float()


def noise(images, filters, height, width, seed=0, dtype=torch.float32):
    """Random maps, about half of them silent."""
    return torch.randn(images, filters, height, width, generator=torch.Generator().manual_seed(seed)).to(dtype)


def layer(name, maps, grid, mirrored=None):
    return LayerMaps(name, maps, mirrored, grid)


class LockStep:
    """A sum over ranks that are threads; each has its own, made by :meth:`of`."""

    def __init__(self, world):
        self.values = [None] * world
        self.barrier = threading.Barrier(world, timeout=60)

    def of(self, rank):
        def total(values):
            self.values[rank] = values
            self.barrier.wait()
            result = sum(self.values[1:], start=self.values[0].clone())
            self.barrier.wait()
            return result

        return total

    def run(self, task):
        """``task(rank, total)`` of every rank, at once; what they return."""
        found = [None] * len(self.values)

        def work(rank):
            try:
                found[rank] = task(rank, self.of(rank))
            except BaseException as error:
                found[rank] = error
                self.barrier.abort()

        threads = [threading.Thread(target=work, args=(rank,)) for rank in range(len(found))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return found
