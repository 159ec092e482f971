"""The one way in which measurements of several processes meet: named tensors, each with how it is reduced."""

from typing import Literal

import torch
from torch import Tensor
from torchmetrics import Metric

from lightning_interp.probing.ranks import Ranks

By = Literal["sum", "max", "min", "rows"]


class Sums(Metric):
    """Named tensors that are added to batch by batch, and reduced over all processes once.

    ``sums.add(name, start)`` makes one; ``sums[name]`` is what this process has of it, to be changed in place or set;
    ``sums.append(name, rows)`` adds rows to one that is reduced by ``"rows"``. Every process makes the same tensors in
    the same order, whether or not it has images. Integers stay exact.

    Args:
        ranks: The processes; their gloo group carries the reduction, whatever training uses.

    Example:
        >>> sums = Sums()
        >>> sums.add("images", torch.zeros(2, dtype=torch.int64))
        >>> sums.add("scores", torch.empty(0, 1), by="rows")
        >>> sums["images"] += torch.tensor([3, 4])
        >>> sums.append("scores", torch.tensor([[0.5]]))
        >>> {name: total.tolist() for name, total in sums.reduced().items()}
        {'images': [3, 4], 'scores': [[0.5]]}
    """

    full_state_update = False

    def __init__(self, ranks: Ranks | None = None) -> None:
        self._ranks = ranks or Ranks()
        super().__init__(sync_on_compute=False, process_group=self._ranks.group)
        # States are attributes, so their names are numbers here, whatever the user's layers are called.
        self._states: dict[str, str] = {}
        self._rows: dict[str, Tensor] = {}

    def add(self, name: str, start: Tensor, by: By = "sum") -> None:
        """Make a named tensor.

        Args:
            name: What it is called; once only.
            start: What it starts from: zeros for ``"sum"``, the identity of ``"max"`` or ``"min"``, or no rows,
                ``(0, ...)``.
            by: How processes are reduced; ``"rows"`` joins the rows of all processes, by rank.

        Raises:
            ValueError: If there is one of that name, or rows to start from.
        """
        if name in self._states:
            raise ValueError(f"there is a sum '{name}' already")
        state = f"state_{len(self._states)}"
        if by == "rows":
            if len(start):
                raise ValueError(f"'{name}' starts with {len(start)} rows; start with none")
            # So that a process without images has something of the right type to give.
            self._rows[name] = start
            self.add_state(state, [], "cat")
            getattr(self, state).append(start)
        else:
            self.add_state(state, start, by)
        self._states[name] = state

    def by_rows(self, name: str) -> bool:
        """Whether a tensor is reduced by rows."""
        return name in self._rows

    def __contains__(self, name: object) -> bool:
        """Whether there is a tensor of that name."""
        return name in self._states

    def __getitem__(self, name: str) -> Tensor:  # type: ignore[override]  # a metric's own indexing is of no use here
        """What this process has of a tensor."""
        if name not in self._states:
            raise KeyError(f"no sum '{name}'; there are {', '.join(self._states) or 'none'}")
        found = getattr(self, self._states[name])
        return torch.cat(found) if name in self._rows else found

    def __setitem__(self, name: str, value: Tensor) -> None:
        """Replace what this process has of a tensor, by one of the same shape and type."""
        own = self[name]
        if name not in self._rows and (own.shape, own.dtype) != (value.shape, value.dtype):
            raise ValueError(
                f"sum '{name}' is {tuple(own.shape)} of {own.dtype}, not {tuple(value.shape)} of {value.dtype}"
            )
        setattr(self, self._states[name], [value] if name in self._rows else value)

    def append(self, name: str, rows: Tensor) -> None:
        """Add rows to a tensor that is reduced by rows."""
        getattr(self, self._states[name]).append(rows.to(self._rows[name].dtype))

    def update(self, **values: Tensor) -> None:
        """Add to the tensors of these names."""
        for name, value in values.items():
            if name in self._rows:
                self.append(name, value)
            else:
                self[name] += value

    def compute(self) -> dict[str, Tensor]:
        """As :meth:`reduced`; of a metric's ``compute``, numbers have no shape."""
        return self.reduced()

    def reduced(self) -> dict[str, Tensor]:
        """By name, every tensor over all processes, on the CPU, where gloo can reduce it; a collective call.

        Not ``compute``, for that warns on a process without images, and takes the shape off a tensor of one element.
        """
        self.cpu()
        with self.sync_context(should_sync=self._ranks.world > 1):
            found = {}
            for name, state in self._states.items():
                value = getattr(self, state)
                found[name] = torch.cat(value) if isinstance(value, list) else value
        return found
