"""The networks that are compared: ours from hparams/, the peers' shapes.

The peers are built from `transformers` alone, with random weights and the
sizes that their authors published: time and memory do not depend on weights.

* MusicFM: log-mel, residual 3x3 convolutions with 512 channels, 12
  Wav2Vec2Conformer layers of 1024 with rotary positions, 25 Hz.
* OMAR-RQ large: log-mel, one linear layer on patches, 24 such layers, 25 Hz.
* MERT 330M: HubertModel on the waveform at 24 kHz, 24 layers of 1024, 75 Hz.
"""

from pathlib import Path

import torch
from hyperpyyaml import load_hyperpyyaml
from torch import nn

from muselq_modules import pretrained
from muselq_modules.audio_scan import find_audio
from muselq_modules.features import LogMel
from muselq_modules.subsampling import ResidualConvSubsampling

ROOT = Path(__file__).resolve().parents[1]
HPARAMS, SAMPLES = ROOT / "hparams", ROOT / "tests" / "samples"
OURS = [
    "brn_summary",
    "brn_attention",
    "brn_attention_small",
    "cnf_summary",
    "cnf_attention",
    "cnf_attention_small",
]
PEERS = ["MusicFM-shaped", "OMAR-RQ-large-shaped", "MERT-330-shaped"]
QUICK = {"dim": 64, "n_layers": 1}
# Of the benchmarks that encode music with an encoder of the user.
OPTIONS = {
    "pretrained": ("", "encoder: run folder, exported folder or Hub id"),
    "songs": (str(SAMPLES), "folder of music"),
}
SAMPLE_RATE = 24000
RESIDUAL = "!name:muselq_modules.subsampling.ResidualConvSubsampling"


def yaml_text(name):
    """Text of a YAML of hparams/, to be loaded from anywhere."""
    text = (HPARAMS / f"{name}.yaml").read_text(encoding="utf-8")
    # Includes are relative to the file, which a text has not.
    blocks = (HPARAMS / "blocks").as_posix()
    return text.replace("!include:blocks/", f"!include:{blocks}/")


def load_ours(name, quick=False, residual=False):
    """Objects of one of the six YAML files.

    Parameters
    ----------
    name : str
        One of `OURS`.
    quick : bool
        One narrow layer.
    residual : bool
        With the front end of the literature.

    Returns
    -------
    dict
        The hparams: encoder, model, tokenizer, masking, features, ...
    """
    text = yaml_text(name)
    if residual:
        front = "!name:muselq_modules.subsampling.ConvNeXtSubsampling"
        assert front in text
        text = text.replace(front, RESIDUAL)
    overrides = {"data_folder": "."}
    if quick:
        overrides["encoder"] = dict(QUICK)
    return load_hyperpyyaml(text, overrides)


def load_encoder(spec, quick=False):
    """An encoder from a folder or the Hub; without one, of random weights."""
    if spec:
        return pretrained.load_encoder(spec, "cpu")
    torch.manual_seed(0)
    return load_ours("brn_summary", quick)["encoder"].eval()


def find_songs(folder):
    """The audio files of a folder."""
    return [Path(folder, name) for name in find_audio(folder)]


class ConformerPeer(nn.Module):
    """Log-mel, a front end and Wav2Vec2Conformer layers; MusicFM, OMAR-RQ.

    It has what a `MaskedPredictor` needs of an encoder.
    """

    def __init__(self, front_end, dim=1024, n_layers=12):
        super().__init__()
        from transformers import Wav2Vec2ConformerConfig
        from transformers.models.wav2vec2_conformer import (
            modeling_wav2vec2_conformer as conformer,
        )

        self.dim = dim
        self.log_mel = LogMel()
        self.token_samples = 4 * self.log_mel.hop_samples
        self.subsampling = front_end(self.log_mel.n_mels, dim)
        config = Wav2Vec2ConformerConfig(
            hidden_size=dim,
            num_hidden_layers=n_layers,
            num_attention_heads=dim // 64,
            intermediate_size=4 * dim,
            position_embeddings_type="rotary",
            layerdrop=0.0,
            **_no_dropout(),
        )
        self.layers = conformer.Wav2Vec2ConformerEncoder(config)
        # Rotary encoders never call it.
        del self.layers.pos_conv_embed

    def encode(self, mels, padding_mask=None):
        """[batch, frames, n_mels] -> [batch, time, dim]."""
        return self.layers(self.subsampling(mels)).last_hidden_state

    def forward(self, wav):
        """[batch, samples] -> [batch, time, dim]."""
        return self.encode(self.log_mel(wav))


class LinearPatches(nn.Module):
    """One linear layer on 4 frames, the front end of OMAR-RQ."""

    def __init__(self, n_mels, dim):
        super().__init__()
        self.linear = nn.Linear(4 * n_mels, dim)

    def forward(self, mels):
        """[batch, frames, n_mels] -> [batch, frames / 4, dim]."""
        return self.linear(mels.unflatten(1, (-1, 4)).flatten(2))


class MertPeer(nn.Module):
    """HubertModel on the waveform, 75 tokens a second at 24 kHz."""

    def __init__(self, dim=1024, n_layers=24):
        super().__init__()
        from transformers import HubertConfig, HubertModel

        self.dim = dim
        config = HubertConfig(
            hidden_size=dim,
            num_hidden_layers=n_layers,
            num_attention_heads=dim // 64,
            intermediate_size=4 * dim,
            feat_extract_norm="layer",
            do_stable_layer_norm=True,
            conv_bias=True,
            feat_proj_dropout=0.0,
            layerdrop=0.0,
            apply_spec_augment=False,
            **_no_dropout(),
        )
        self.hubert = HubertModel(config)

    def forward(self, wav):
        """[batch, samples] -> [batch, time, dim]."""
        return self.hubert(wav).last_hidden_state


def _no_dropout():
    names = ("hidden_dropout", "attention_dropout", "activation_dropout")
    return dict.fromkeys(names, 0.0)


def build_peer(name, quick=False, **size):
    """One of `PEERS`, with random weights; ``n_layers`` in place of its own."""
    size = {**(QUICK if quick else {}), **size}
    if name == "MERT-330-shaped":
        return MertPeer(**size)
    if name == "MusicFM-shaped":
        if quick:
            return ConformerPeer(LinearPatches, **size)
        return ConformerPeer(ResidualConvSubsampling, **size)
    return ConformerPeer(LinearPatches, **{"n_layers": 24, **size})


def noise(seconds, batch=1, seed=0):
    """Waveforms [batch, samples]."""
    generator = torch.Generator().manual_seed(seed)
    shape = batch, round(seconds * SAMPLE_RATE)
    return torch.randn(shape, generator=generator) * 0.1
