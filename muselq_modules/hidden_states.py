"""What every encoder gives, and which of its layers."""

from dataclasses import dataclass

import torch

from muselq_modules.errors import UserError


@dataclass
class EncoderOutput:
    """What an encoder gives for a batch of clips.

    Attributes
    ----------
    hidden_states : list of torch.Tensor
        One tensor [batch, time, dim] for each of ``layers``.
    layers : list of int
        Their numbers: 0 after subsampling, i after layer i, n_layers the last
        one, normalised.
    lengths : torch.Tensor
        Valid tokens of each clip, int64 [batch].
    token_rate_hz : float
        Tokens a second.
    times : torch.Tensor
        Seconds from the start of the clip to the centre of each token,
        float64 [time], on the CPU.
    """

    hidden_states: list
    layers: list
    lengths: torch.Tensor
    token_rate_hz: float
    times: torch.Tensor = None

    def __post_init__(self):
        if self.times is None:
            tokens = torch.arange(self.hidden_states[0].shape[1])
            self.times = (tokens.double() + 0.5) / self.token_rate_hz


def choose_layers(layers, n_layers):
    """Numbers of the hidden states that are asked for.

    Parameters
    ----------
    layers : list of int, int or None
        0 = after subsampling ... ``n_layers`` = last; negative numbers count
        from the end; None is all.
    n_layers : int
        Layers of the encoder.

    Returns
    -------
    list of int

    Raises
    ------
    UserError
        For a layer that the encoder does not have.

    Example
    -------
    >>> choose_layers([-1, 0], 12), choose_layers(None, 2)
    ([12, 0], [0, 1, 2])
    """
    if layers is None:
        return list(range(n_layers + 1))
    if isinstance(layers, int):
        layers = [layers]
    try:
        chosen = [range(n_layers + 1)[layer] for layer in layers]
    except (IndexError, TypeError):
        chosen = []
    if not chosen:
        raise UserError(
            f"layers {layers} does not exist: give a list of numbers from 0 "
            f"(after subsampling) to {n_layers} (last), or -1 for the last."
        )
    return chosen
