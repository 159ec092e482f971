"""Small probe sets made of random labels, with every awkward case in them."""

import torch

from lightning_interp.data.probe import Concept, Labels, ProbeSet


class RandomProbe(ProbeSet):
    """Noise images; planes with gaps in the numbers, several planes a category, duplicates, image-level labels."""

    normalize = None

    def __init__(self, num_images=37, size=24, mask_size=(12, 12), seed=0):
        self.num_images, self.size, self.mask_size, self.seed = num_images, size, mask_size, seed
        self.concepts = (
            Concept(2, "cat", "object"),
            Concept(3, "ear", "part"),
            Concept(7, "fur", "material"),
            Concept(300, "dog", "object"),
            Concept(9, "street-s", "scene"),
            Concept(11, "never", "texture"),
            Concept(12, "grid", "texture"),
        )

    def __len__(self):
        return self.num_images

    def _generator(self, index):
        return torch.Generator().manual_seed(self.seed * 100_003 + index)

    def image(self, index):
        return torch.rand(3, self.size, self.size, generator=self._generator(index))

    def labels(self, index):
        generator = self._generator(index + 50_000)
        h, w = self.mask_size

        def plane(choices):
            coarse = torch.randint(len(choices), (4, 4), generator=generator)
            rows, columns = torch.arange(h) * 4 // h, torch.arange(w) * 4 // w
            return torch.tensor(choices)[coarse[rows][:, columns]]

        planes = {"object": plane([0, 2, 300])}
        if index % 3:
            # The same number in two planes and in two categories.
            planes["part"] = torch.stack([plane([0, 3]), plane([0, 3, 2])])
            planes["material"] = plane([0, 7, 2])
        image = {"scene": (9,) if index % 4 == 0 else (0,), "texture": (12,) if index % 5 == 0 else ()}
        return Labels(planes, image)
