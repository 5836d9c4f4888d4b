"""What is done to a training segment before it is masked.

Beyond the paper, which has 1,700 hours and more: a few songs played at other
speeds and levels, through other equalisers and bandwidths, are many songs. The
targets are made of what comes out, so that hidden frames can only be predicted
by an encoder that hears how this segment was recorded.
"""

import functools

import torch
import torchaudio

# Bands of the equaliser: half periods of a cosine over the mel scale.
EQUALISER_TERMS = 4
# Share of the mel scale within which a low-pass falls by 100 dB.
LOWPASS_WIDTH = 0.02


@functools.lru_cache(maxsize=4)
def mel_positions(n_bins, sample_rate):
    """Place on the mel scale [bins] of the bins of a spectrum, 0 to 1.

    Example
    -------
    >>> mel_positions(3, 24000)
    tensor([0.0000, 0.7794, 1.0000])
    """
    hz = torch.linspace(0, sample_rate / 2, n_bins)
    mel = torch.log1p(hz / 700)
    return mel / mel[-1]


class Augmentation:
    """Another speed, level, equaliser and bandwidth for each segment.

    All of it is drawn from a generator, so that the same generator gives the
    same segment.

    Parameters
    ----------
    speeds : sequence of float
        A segment is played at one of these, from 0.5 to 2: 1.25 is a quarter
        faster and 4 semitones higher, and leaves a fifth of it as padding.
    gain_db : float
        Its level is changed by up to this many decibels, down or up.
    equaliser_db : float
        Amplitude of the slowest wave of a random equaliser over the mel
        scale, in decibels; the others, up to two periods, are smaller.
    lowpass_probability : float
        Probability that it loses what lies above a frequency from the upper
        half of the mel scale (2.3 kHz and more at 24 kHz), as sources of a low
        sample rate do.

    Raises
    ------
    ValueError
        When an argument is out of range.

    Example
    -------
    >>> augmentation = Augmentation(speeds=[1.25], gain_db=10.0)
    >>> wav = torch.rand(24000) - 0.5
    >>> augmentation(wav, 24000, torch.Generator().manual_seed(0)).shape
    torch.Size([19200])
    """

    def __init__(
        self,
        speeds=(1.0,),
        gain_db=0.0,
        equaliser_db=0.0,
        lowpass_probability=0.0,
    ):
        def fits(speed):
            return isinstance(speed, (int, float)) and 0.5 <= speed <= 2.0

        is_list = isinstance(speeds, (list, tuple)) and len(speeds) > 0
        if not is_list or not all(map(fits, speeds)):
            raise ValueError(
                f"speeds is {speeds}; it must be a list of numbers from 0.5 "
                "to 2.0, such as [0.8, 1.0, 1.25]"
            )
        limits = {
            "gain_db": (gain_db, 60.0),
            "equaliser_db": (equaliser_db, 60.0),
            "lowpass_probability": (lowpass_probability, 1.0),
        }
        for name, (value, limit) in limits.items():
            if not isinstance(value, (int, float)) or not 0 <= value <= limit:
                raise ValueError(
                    f"{name} is {value}; it must be a number from 0 to "
                    f"{limit:g}"
                )
        self.speeds = speeds
        self.gain_db = gain_db
        self.equaliser_db = equaliser_db
        self.lowpass_probability = lowpass_probability
        self.filters = any((gain_db, equaliser_db, lowpass_probability))

    def __call__(self, wav, sample_rate, generator):
        """One segment.

        Parameters
        ----------
        wav : torch.Tensor
            Samples [samples], int16 or float32.
        sample_rate : int
            Its rate in Hz.
        generator : torch.Generator
            Draws all that is random.

        Returns
        -------
        torch.Tensor
            Of the same type; as many samples at speed 1, more below and fewer
            above.
        """
        chosen = torch.randint(len(self.speeds), (), generator=generator)
        speed = self.speeds[chosen.item()]
        decibels = None
        if self.filters:
            decibels = self._draw_response(generator)
        if len(wav) == 0 or (speed == 1 and decibels is None):
            return wav
        changed = wav.float()
        if speed != 1:
            changed = torchaudio.functional.resample(
                changed, round(sample_rate * speed), sample_rate
            )
        largest = 1.0 if wav.is_floating_point() else 2.0**15 - 1
        if decibels is not None:
            changed = self._filter(changed, sample_rate, decibels)
            # What would be beyond full scale is turned down, not clipped.
            changed *= min(1.0, largest / max(changed.abs().max(), 1e-9))
        if wav.is_floating_point():
            return changed
        return changed.round().clamp(-largest - 1, largest).to(wav.dtype)

    def _draw_response(self, generator):
        """A function from places on the mel scale to decibels."""
        waves = torch.arange(1, EQUALISER_TERMS + 1)
        draws = torch.rand(EQUALISER_TERMS + 3, generator=generator)
        gain = self.gain_db * (2 * draws[0] - 1)
        amplitudes = self.equaliser_db * (2 * draws[3:] - 1) / waves.sqrt()
        cutoff = 2.0  # beyond the scale
        if draws[1] < self.lowpass_probability:
            cutoff = 0.5 + draws[2] / 2

        def response(place):
            beyond = ((place - cutoff) / LOWPASS_WIDTH).clamp(0, 1)
            decibels = gain - 100 * beyond
            if self.equaliser_db:
                bands = torch.outer(torch.pi * waves, place).cos_()
                decibels = decibels + amplitudes @ bands
            return decibels

        return response

    @staticmethod
    def _filter(wav, sample_rate, decibels):
        """Filter without delay."""
        length = 1 << (len(wav) - 1).bit_length()  # fast for any segment
        spectrum = torch.fft.rfft(wav, length)
        place = mel_positions(len(spectrum), sample_rate)
        spectrum *= 10 ** (decibels(place) / 20)
        return torch.fft.irfft(spectrum, length)[: len(wav)]
