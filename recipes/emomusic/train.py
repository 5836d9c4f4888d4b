"""EmoMusic arousal and valence with a probe on a frozen music encoder.

    torchrun recipes/emomusic/train.py recipes/emomusic/hparams/emotion.yaml \
        --data_folder /data/emomusic --pretrained results/brn_summary/1234
"""

import speechbrain as sb
from emomusic_prepare import prepare_emomusic

from muselq_modules.probing import run_probe


@sb.utils.data_pipeline.takes("arousal", "valence")
@sb.utils.data_pipeline.provides("label")
def label_pipeline(arousal, valence):
    """Both targets, standardised by the training clips."""
    return [float(arousal), float(valence)]


if __name__ == "__main__":
    run_probe(prepare_emomusic, label_pipeline)
