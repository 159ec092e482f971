"""What a user should hear of a dissection that went through, said once."""

import warnings
from collections.abc import Sequence

from lightning_interp.methods.dissection.result import DissectionResult

_NAMED = 8


class Notices:
    """Warns of images left out and of units that cannot be scored; of each layer once, however often it is probed."""

    def __init__(self) -> None:
        self._said: set[str | None] = set()

    def __call__(self, result: DissectionResult, skipped: Sequence[tuple[int, str]]) -> None:
        """Warn of what is new.

        Args:
            result: What was found.
            skipped: Images left out, ``(index, reason)``.
        """
        if skipped:
            index, reason = min(skipped)
            images = f"{len(skipped)} of {result.num_images + len(skipped)} images of the probe set"
            self._say(None, f"left out: {images}; the first, image {index}: {reason}")
        for name, layer in result.layers.items():
            units = [str(unit) for unit, count in enumerate(layer.nonfinite) if count]
            if units:
                more = ", ..." if len(units) > _NAMED else ""
                self._say(
                    name,
                    f"layer '{name}': {len(units)} of {layer.num_units} units gave NaN or infinite activations "
                    f"({', '.join(units[:_NAMED])}{more}): not scored",
                )

    def _say(self, subject: str | None, text: str) -> None:
        if subject not in self._said:
            self._said.add(subject)
            warnings.warn(text, stacklevel=4)
