"""Splitting an amount in proportion to weights."""


def allocate(total, weights):
    """Split the integer total in proportion to the integer weights.

    Returns a list of integers, one per weight.
    """
    whole = sum(weights)
    if whole == 0:
        return [0 for _ in weights]
    return [round(total * weight / whole) for weight in weights]
