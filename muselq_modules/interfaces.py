"""An exported encoder behind SpeechBrain's own `from_hparams`.

`from_hparams` builds whatever hyperparams.yaml names, and `!apply:` calls it:
such a file runs code. Use it for folders that you trust;
`MusicEncoder.from_pretrained` loads the same folder and runs nothing.
"""

from speechbrain.inference.interfaces import Pretrained
from speechbrain.utils.fetching import FetchConfig, LocalStrategy, fetch
from speechbrain.utils.parameter_transfer import Pretrainer

from muselq_modules.weights import fitting_weights

WEIGHTS = "model.safetensors"


class StrictPretrainer(Pretrainer):
    """Fetches model.safetensors and loads it strictly.

    SpeechBrain's own reads pickles, and leaves layers at random with a warning
    where names differ.

    Parameters
    ----------
    loadables : dict
        The encoder under the name ``encoder``.

    Example
    -------
    >>> from torch.nn import Linear
    >>> encoder = Linear(2, 2)
    >>> StrictPretrainer(loadables={"encoder": encoder}).loadables
    {'encoder': Linear(in_features=2, out_features=2, bias=True)}
    """

    def collect_files(
        self,
        default_source=None,
        local_strategy=LocalStrategy.SYMLINK,
        fetch_config=None,
    ):
        """Find or download the weights of each loadable."""
        for name in self.loadables:
            self.paths[name] = fetch(
                WEIGHTS,
                default_source,
                self.collect_in,
                local_strategy=local_strategy,
                fetch_config=fetch_config or FetchConfig(),
            )
        return dict(self.paths)

    def load_collected(self):
        """Load them, refusing what does not fit."""
        for name, module in self.loadables.items():
            path = self.paths[name]
            state = fitting_weights(module, path, "hyperparams.yaml")
            module.load_state_dict(state, strict=True)


class MusicEncoderInterface(Pretrained):
    """SpeechBrain's inference interface of a `MusicEncoder`.

    Made by ``MusicEncoderInterface.from_hparams(source)`` from an exported
    folder or a Hub id. The folder's hyperparams.yaml RUNS AS CODE: only load
    what you trust, or use `MusicEncoder.from_pretrained`.

    Example
    -------
    >>> import torch
    >>> from speechbrain.dataio.preprocess import AudioNormalizer
    >>> from muselq_modules.encoder import MusicEncoder
    >>> from muselq_modules.features import LogMel
    >>> from muselq_modules.subsampling import ConvNeXtSubsampling
    >>> encoder = MusicEncoder(LogMel(), ConvNeXtSubsampling, None, 16, 0)
    >>> interface = MusicEncoderInterface(
    ...     {"encoder": encoder},
    ...     {"audio_normalizer": AudioNormalizer(24000)},
    ...     {"device": "cpu"},
    ... )
    >>> interface.encode_batch(torch.randn(2, 24000)).hidden_states[-1].shape
    torch.Size([2, 25, 16])
    """

    MODULES_NEEDED = ["encoder"]
    HPARAMS_NEEDED = ["audio_normalizer"]

    def encode_file(self, path, layers=None):
        """Encode an audio file, mixed down and resampled.

        Parameters
        ----------
        path : str
            A file, a URL, or a file of a Hub repository.
        layers : list of int, optional
            Hidden states to return; all by default.

        Returns
        -------
        EncoderOutput
        """
        wav = self.load_audio(str(path))
        rate = self.audio_normalizer.sample_rate
        with self.inference_ctx:
            return self.mods.encoder(wav, rate, layers=layers)

    def encode_batch(self, wavs, wav_lens=None, layers=None):
        """Encode waveforms that have the rate of the encoder.

        Parameters
        ----------
        wavs : torch.Tensor
            [batch, samples], as `load_audio` gives them.
        wav_lens : torch.Tensor, optional
            Relative lengths [batch].
        layers : list of int, optional
            Hidden states to return; all by default.

        Returns
        -------
        EncoderOutput
        """
        encoder = self.mods.encoder
        with self.inference_ctx:
            return encoder(wavs, encoder.sample_rate, wav_lens, layers)

    def forward(self, wavs, wav_lens=None, layers=None):
        """As `encode_batch`."""
        return self.encode_batch(wavs, wav_lens, layers)
