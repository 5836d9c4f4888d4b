"""MuseLQ: linear-complexity self-supervised music representations.

Read the modules in the order of the data: features, masking, tokenizer,
subsampling, summary_mixing, attention, branchformer, conformer, encoder,
model, losses, schedules, pretraining; then segments and sampling for the data,
embeddings and probing for the evaluation.

Who only wants features:

    from muselq_modules import MusicEncoder
    encoder = MusicEncoder.from_pretrained(FOLDER_OR_HUB_ID)
    out = encoder(wav, sample_rate)
"""

from muselq_modules.compatibility import check_torch_pair

__version__ = "0.1.0"
__all__ = ["MusicEncoder"]

check_torch_pair()


def __getattr__(name):
    # On demand: most modules need no encoder, and its layers take a second.
    if name == "MusicEncoder":
        from muselq_modules.encoder import MusicEncoder

        return MusicEncoder
    raise AttributeError(f"module {__name__} has no attribute {name}")
