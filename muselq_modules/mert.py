"""MERT-v1-95M and 330M (arXiv:2306.00107), loaded without running their code.

The published repositories come with Python files that transformers runs when
told to trust them, and SpeechBrain's ``MERT`` tells it to, always. Nothing of
that is needed: as published, both models are HuBERT, which transformers has.
Their config.json says so: no CQT front end (it served pre-training), no
deepnorm, group normalisation in the first of seven convolutions without bias;
95M normalises after its blocks, 330M before (``do_stable_layer_norm``). The
``attention_relax: 32`` of 330M subtracts the largest logit before the softmax,
which changes nothing but the range of half precision.

So `load_mert` reads what describes the architecture from config.json, builds
transformers' ``HubertModel`` and loads the weights strictly, as tensors alone.
Two more reasons against SpeechBrain's class: padding (group normalisation
goes over time, so that a padded batch changes every frame of a clip; here
clips of one length are encoded together, see `ForeignEncoder`) and the last
hidden state of 330M (recent transformers give it before the final layer
normalisation, the published code after it, and so does this).

The weights are CC BY-NC 4.0: no commercial use. None is part of MuseLQ.
"""

import json
import logging
import os
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from muselq_modules.adapters import ForeignEncoder
from muselq_modules.encoder import digest_of
from muselq_modules.errors import UserError

logger = logging.getLogger(__name__)

# Repository and commit: a later commit cannot change a result unnoticed.
PUBLISHED = {
    "95M": ("m-a-p/MERT-v1-95M", "12af15fef9d0ac838c3f475bfbbf26d2060dd4f5"),
    "330M": ("m-a-p/MERT-v1-330M", "0e06c986db0527c0fd1b47181c40f006805e3de0"),
}
FILES = ("config.json", "preprocessor_config.json", "pytorch_model.bin")
# What is read of config.json; everything else in it is left alone.
ARCHITECTURE = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "hidden_act",
    "hidden_dropout",
    "activation_dropout",
    "attention_dropout",
    "layer_norm_eps",
    "do_stable_layer_norm",
    "feat_extract_norm",
    "feat_extract_activation",
    "feat_proj_layer_norm",
    "feat_proj_dropout",
    "conv_dim",
    "conv_stride",
    "conv_kernel",
    "conv_bias",
    "num_conv_pos_embeddings",
    "num_conv_pos_embedding_groups",
    "conv_pos_batch_norm",
)
# Would make it another model than HuBERT; the published ones have neither.
UNSUPPORTED = ("feature_extractor_cqt", "deepnorm")
# Weights that only pre-training reads: what masked frames are replaced with.
PRETRAINING_ONLY = ("masked_spec_embed",)


class MertEncoder(ForeignEncoder):
    """A HuBERT of transformers with MERT's input: 24 kHz, normalised clips.

    Parameters
    ----------
    config : dict
        Of config.json.
    sample_rate : int
        Rate of the waveform in Hz.
    normalise : bool
        Whether each clip is brought to zero mean and unit variance.
    """

    def __init__(self, config, sample_rate=24000, normalise=True):
        super().__init__()
        hubert_config, hubert_model = _import_hubert()
        self.settings = {k: config[k] for k in ARCHITECTURE if k in config}
        self.sample_rate = sample_rate
        self.normalise = normalise
        self.hubert = hubert_model(
            # Nothing is masked and no layer is dropped, in training neither.
            hubert_config(
                **self.settings,
                mask_time_prob=0.0,
                mask_feature_prob=0.0,
                apply_spec_augment=False,
                layerdrop=0.0,
                attn_implementation="sdpa",
            )
        )
        config = self.hubert.config
        self.dim = config.hidden_size
        self.n_layers = config.num_hidden_layers
        # Samples that a token sees, and from one token to the next.
        self.min_samples, self.hop_samples = 1, 1
        for kernel, stride in zip(config.conv_kernel, config.conv_stride):
            self.min_samples += (kernel - 1) * self.hop_samples
            self.hop_samples *= stride

    @property
    def token_rate_hz(self):
        """Tokens a second: 75."""
        return self.sample_rate / self.hop_samples

    def digest(self):
        """Hex sha256 of the architecture, the input and the weights."""
        text = json.dumps(self.settings, sort_keys=True)
        return digest_of(
            self, f"MERT {text} {self.sample_rate} {self.normalise}"
        )

    def times(self, n_tokens):
        """Seconds of the token centres; the convolutions have no padding."""
        starts = torch.arange(n_tokens).double() * self.hop_samples
        return (starts + self.min_samples / 2) / self.sample_rate

    def hidden_states(self, wav, layers):
        """[batch, samples] -> [layers, batch, time, dim].

        0 is the input of the first layer: the projected convolutions with
        their positions.
        """
        if self.normalise:
            variance, mean = torch.var_mean(wav, 1, correction=0, keepdim=True)
            wav = (wav - mean) / (variance + 1e-7).sqrt()
        weight = self.hubert.feature_projection.projection.weight
        out = self.hubert(wav.to(weight.dtype), output_hidden_states=True)
        states = [*out.hidden_states[:-1], out.last_hidden_state]
        return torch.stack([states[layer] for layer in layers])


def _import_hubert():
    try:
        from transformers import HubertConfig, HubertModel
    except ImportError as error:
        raise UserError(
            "MERT needs transformers, which is not installed: run "
            "`pip install -e '.[mert]'`."
        ) from error
    return HubertConfig, HubertModel


def load_mert(name, revision=None):
    """A MERT from the Hugging Face Hub or from a folder.

    Parameters
    ----------
    name : str or Path
        ``95M``, ``330M``, or a folder with config.json,
        preprocessor_config.json and pytorch_model.bin or model.safetensors.
        ``95M@<revision>`` gives the revision too.
    revision : str, optional
        Commit, tag or branch on the Hub. Default: the commit of `PUBLISHED`.

    Returns
    -------
    MertEncoder
        In evaluation mode. Its ``source`` is ``org/name@commit`` or the
        folder.

    Raises
    ------
    UserError
        Without transformers, for files that are missing or damaged, a config
        that is no HuBERT, and weights that do not fit it exactly.
    """
    _import_hubert()  # before gigabytes are downloaded
    size, _, given = str(name).partition("@")
    folder = Path(str(name))
    source = str(folder.resolve())
    if size in PUBLISHED:
        folder = _download(*PUBLISHED[size], revision or given)
        # snapshot_download names its folders after the commit.
        source = f"{PUBLISHED[size][0]}@{folder.name}"
    elif not folder.is_dir():
        raise UserError(
            f"mert:{name} is neither {' nor '.join(PUBLISHED)} nor a folder: "
            "give one of them."
        )
    config = _read_json(folder / "config.json")
    unsupported = [key for key in UNSUPPORTED if config.get(key)]
    if unsupported:
        raise UserError(
            f"{folder / 'config.json'} sets {unsupported[0]}, which is not "
            "HuBERT as MERT-v1-95M and 330M are: use one of those."
        )
    audio = _read_json(folder / "preprocessor_config.json")
    weights = _read_weights(folder)
    for key in PRETRAINING_ONLY:
        weights.pop(key, None)
    try:
        rate = audio["sampling_rate"]
        encoder = MertEncoder(config, rate, audio["do_normalize"])
        encoder.hubert.load_state_dict(weights, strict=True)
    except Exception as error:  # whatever transformers finds wrong with it
        reason = " ".join(str(error).split())
        raise UserError(
            f"the files in {folder} are no MERT that fits together: {reason}"
        ) from error
    if os.environ.get("RANK", "0") == "0":
        logger.warning(
            "MERT of %s: its weights are published under CC BY-NC 4.0, for "
            "non-commercial use only.",
            name,
        )
    encoder.source = source
    return encoder.eval()


def _download(repository, pinned, revision):
    """Folder of the three files in the cache of huggingface_hub."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(
            snapshot_download(
                repository,
                revision=revision or pinned,
                allow_patterns=list(FILES),
            )
        )
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"{repository} cannot be downloaded: check the connection and the "
            f"revision, or copy {', '.join(FILES)} to a folder and give "
            f"mert:<folder> ({reason})."
        ) from error


def _read_json(path):
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(found, dict):
            return found
        error = "it holds no mapping"
    except (OSError, ValueError) as fault:
        error = fault
    raise UserError(f"{path} cannot be read ({error}): copy it again.")


def _read_weights(folder):
    """Tensors by name; a pickle is read as tensors alone."""
    try:
        if (folder / "model.safetensors").is_file():
            return load_file(folder / "model.safetensors")
        path = folder / "pytorch_model.bin"
        return torch.load(path, map_location="cpu", weights_only=True)
    except (
        OSError,
        EOFError,
        RuntimeError,
        UnpicklingError,
        SafetensorError,
    ) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"the weights in {folder} cannot be read ({reason}): copy them "
            "again."
        ) from error
