"""A loss weight that rises at the start of a run."""


def ramped(weight: float, step: int, warmup_steps: int) -> float:
    """Return the weight of a loss term in a step: from 0 at step 0 on a straight line to all of it.

    Args:
        weight: What it rises to.
        step: Optimiser step, from 0.
        warmup_steps: The first step with all of it; 0 for no rise.
    """
    return weight * step / warmup_steps if step < warmup_steps else weight
