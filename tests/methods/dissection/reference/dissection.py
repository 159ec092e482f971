"""Network Dissection the slow way: every map upsampled, every mask dense, in float64."""

import numpy as np
import torch

from lightning_interp.functional.pixels import cyclic_partners


def anchors_of(length, size, upsample, centre=None, step=None):
    if upsample == "receptive_field":
        return [centre + i * step for i in range(length)]
    return [(size / length - 1) / 2 + i * size / length for i in range(length)]


def upsample_axis(length, size, anchors, border):
    """Matrix (size, length) of linear interpolation between anchors."""
    matrix = np.zeros((size, length))
    step = anchors[1] - anchors[0] if length > 1 else size / length
    for y in range(size):
        for i in range(length):
            distance = abs(y - anchors[i]) / step
            outside = (y < anchors[0] and i == 0) or (y > anchors[-1] and i == length - 1)
            matrix[y, i] = 1.0 if outside and border == "hold" else max(0.0, 1 - distance)
    return matrix


def labels_dense(probe, index, size):
    """(C, h, w) bool, straight from planes and image-level labels."""
    labels = probe.labels(index)
    dense = np.zeros((len(probe.concepts), *size), dtype=bool)
    for c, concept in enumerate(probe.concepts):
        for plane in labels.planes.values():
            plane = plane.numpy().reshape(-1, *plane.shape[-2:])
            rows = [int((i + 0.5) * plane.shape[1] / size[0]) for i in range(size[0])]
            columns = [int((i + 0.5) * plane.shape[2] / size[1]) for i in range(size[1])]
            for one in plane:
                dense[c] |= one[np.ix_(rows, columns)] == concept.number
        for numbers in labels.image.values():
            if concept.number in numbers:
                dense[c] = True
    return dense


def dissect_dense(
    acts, probe, indices=None, *, quantile=0.005, quantile_on="low", upsample="cell", images="category",
    mask_size=None, anchors=None,
):  # fmt: skip
    """Thresholds and tallies for activations (N, U, h, w) of the images ``indices``."""
    indices = list(range(len(probe))) if indices is None else indices
    size = mask_size or probe.mask_size
    acts = acts.double().numpy()
    n, units, h, w = acts.shape
    border = "zero" if upsample == "zero_pad" else "hold"
    (row_anchors, column_anchors) = anchors or (
        anchors_of(h, size[0], upsample),
        anchors_of(w, size[1], upsample),
    )
    up = np.einsum(
        "yi,nuij,xj->nuyx",
        upsample_axis(h, size[0], row_anchors, border),
        acts,
        upsample_axis(w, size[1], column_anchors, border),
        optimize=True,
    )
    values = up if quantile_on == "upsampled" else acts
    thresholds = np.quantile(values.swapaxes(0, 1).reshape(units, -1), 1 - quantile, axis=1)
    # Pixels in one row: (n, U, P) active, (n, C, P) labelled.
    active = (up > thresholds[:, None, None]).reshape(n, units, -1).astype(np.int64)
    dense = np.stack([labels_dense(probe, i, size) for i in indices]).reshape(n, len(probe.concepts), -1)
    category = np.array([probe.categories.index(c.category) for c in probe.concepts])
    partner = cyclic_partners(indices)
    where = {index: position for position, index in enumerate(indices)}
    out = {"thresholds": thresholds}
    for name, pairing in (("real", list(range(n))), ("chance", [where[partner.get(i, i)] for i in indices])):
        masks = dense[pairing].astype(np.int64)
        present = masks.any(2)
        counts = np.stack([present[:, category == g].any(1) for g in range(len(probe.categories))], 1)
        if images == "all":
            counts[:] = True
        out[name] = {
            "intersection": sum(active[x] @ masks[x].T for x in range(n)),
            "unit_area": active.sum(2).T @ counts,
            "pixels": counts.sum(0) * (size[0] * size[1]),
            "concept_area": masks.sum((0, 2)),
        }
    if not partner:
        for key in ("intersection", "unit_area"):
            out["chance"][key][:] = 0
    return out


def activations(model, layer, probe, indices=None):
    """All maps of a layer at once, one image at a time padded to nothing: (N, U, h, w)."""
    kept = []
    handle = layer.register_forward_hook(lambda m, a, out: kept.append(out.detach().float().clone()))
    images = torch.stack([probe.image(i) for i in (range(len(probe)) if indices is None else indices)])
    images = images.float() / 255 if images.dtype == torch.uint8 else images
    if probe.normalize is not None:
        mean, std = (torch.tensor(v)[:, None, None] for v in probe.normalize)
        images = (images - mean) / std
    model.eval()
    with torch.no_grad():
        model(images)
    handle.remove()
    return kept[0]
