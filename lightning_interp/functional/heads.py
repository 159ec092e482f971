"""What a network's outputs say of an attribute, as one logit an image."""

from collections.abc import Sequence

from torch import Tensor

Head = Sequence[str]


def attribute_logit(outputs: Tensor, target: str, names: Head | None, labels: Tensor) -> Tensor:
    """The score s of a target: the log-odds of "yes", or of the true class where there are more than two.

    Logits, never probabilities: a saturated sigmoid hides a change.

    Args:
        outputs: ``(B,)``, ``(B, 1)`` or ``(B, K)`` logits.
        target: The attribute.
        names: What the K columns stand for, each a binary attribute of its own; None for a single output, or for
            columns that are the classes of the target.
        labels: ``(B,)`` int64, the true class; used with more than two classes only.

    Returns:
        ``(B,)``: the column of the target; with two classes ``s_1 - s_0``; with more, the log-odds of the true class
        ``s_y - log sum_(k != y) exp(s_k)``.

    Raises:
        ValueError: If the outputs have another shape, naming what was expected.
    """
    if outputs.ndim == 1:
        outputs = outputs[:, None]
    if outputs.ndim != 2:
        raise ValueError(f"the network gives {tuple(outputs.shape)}; expected logits (B,) or (B, K)")
    if names is not None:
        return column(outputs, target, names)
    if outputs.shape[1] == 1:
        return outputs[:, 0]
    if outputs.shape[1] == 2:
        return outputs[:, 1] - outputs[:, 0]
    true = labels.clamp(min=0)[:, None]
    others = outputs.scatter(1, true, float("-inf")).logsumexp(1)
    return outputs.gather(1, true)[:, 0] - others


def column(outputs: Tensor, name: str, names: Head) -> Tensor:
    """``(B,)``, the logit of one of several binary attributes.

    Raises:
        ValueError: If the outputs are not one column a name, or the name is none of them.
    """
    if outputs.ndim != 2 or outputs.shape[1] != len(names):
        raise ValueError(f"the network gives {tuple(outputs.shape)}; outputs= names {len(names)} columns")
    if name not in names:
        raise ValueError(f"outputs= does not name '{name}'; it names {', '.join(names)}")
    return outputs[:, list(names).index(name)]
