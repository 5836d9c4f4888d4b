"""NSynth instrument family or pitch with a probe on a frozen music encoder.

    torchrun recipes/nsynth/train.py recipes/nsynth/hparams/pitch.yaml \
        --data_folder /data/nsynth --pretrained results/brn_summary/1234
"""

import speechbrain as sb
from nsynth_prepare import FAMILIES, prepare_nsynth

from muselq_modules.errors import UserError
from muselq_modules.probing import run_probe


@sb.utils.data_pipeline.takes("family")
@sb.utils.data_pipeline.provides("label")
def instrument_pipeline(family):
    """The index of the family."""
    if family not in FAMILIES:
        raise UserError(f"family '{family}' is none of {', '.join(FAMILIES)}")
    return FAMILIES.index(family)


@sb.utils.data_pipeline.takes("pitch")
@sb.utils.data_pipeline.provides("label")
def pitch_pipeline(pitch):
    """The MIDI note number."""
    return int(pitch)


if __name__ == "__main__":
    run_probe(
        prepare_nsynth,
        {"instrument": instrument_pipeline, "pitch": pitch_pipeline},
    )
