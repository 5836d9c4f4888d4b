"""VocalSet technique or singer with a probe on a frozen music encoder.

    torchrun recipes/vocalset/train.py recipes/vocalset/hparams/singer.yaml \
        --data_folder /data/vocalset --pretrained results/brn_summary/1234
"""

import speechbrain as sb
from vocalset_prepare import SINGERS, TECHNIQUES, prepare_vocalset

from muselq_modules.errors import UserError
from muselq_modules.probing import run_probe


@sb.utils.data_pipeline.takes("technique")
@sb.utils.data_pipeline.provides("label")
def technique_pipeline(technique):
    """The index of the technique."""
    return index_of(technique, TECHNIQUES)


@sb.utils.data_pipeline.takes("singer")
@sb.utils.data_pipeline.provides("label")
def singer_pipeline(singer):
    """The index of the singer."""
    return index_of(singer, SINGERS)


def index_of(name, names):
    if name not in names:
        raise UserError(f"'{name}' is none of {', '.join(names)}")
    return names.index(name)


if __name__ == "__main__":
    run_probe(
        prepare_vocalset,
        {"technique": technique_pipeline, "singer": singer_pipeline},
    )
