"""GTZAN genre classification with a probe on a frozen music encoder

    torchrun recipes/gtzan/train.py recipes/gtzan/hparams/genre.yaml \
        --data_folder /data/gtzan --pretrained results/brn_summary/1234
"""

import speechbrain as sb
from gtzan_prepare import GENRES, prepare_gtzan

from muselq_modules.errors import UserError
from muselq_modules.probing import run_probe


@sb.utils.data_pipeline.takes("genre")
@sb.utils.data_pipeline.provides("label")
def label_pipeline(genre):
    """The index of the genre"""
    if genre not in GENRES:
        raise UserError(f"genre '{genre}' is not one of {', '.join(GENRES)}")
    return GENRES.index(genre)


if __name__ == "__main__":
    run_probe(prepare_gtzan, label_pipeline)
