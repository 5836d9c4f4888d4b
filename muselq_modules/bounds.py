"""Sizes that a layer may have; what lies beyond is a slip of the keyboard."""


def require_size(name, value, lowest, highest):
    """Raise a ValueError for a size that is no whole number in a range.

    Without it, a zero too many fills the memory before anything is refused.

    Parameters
    ----------
    name : str
        Of the argument.
    value : int
    lowest, highest : int
        Both are allowed.

    Example
    -------
    >>> require_size("n_layers", 12, 0, 512)
    """
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not whole or not lowest <= value <= highest:
        raise ValueError(
            f"{name} is {value}; it must be a whole number from {lowest} to "
            f"{highest}"
        )
