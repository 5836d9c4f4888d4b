"""MagnaTagATune tagging with a probe on a frozen music encoder

    torchrun recipes/magnatagatune/train.py \
        recipes/magnatagatune/hparams/tagging.yaml \
        --data_folder /data/mtat --pretrained results/brn_summary/1234
"""

import speechbrain as sb
from magnatagatune_prepare import prepare_magnatagatune

from muselq_modules.errors import UserError
from muselq_modules.probing import run_probe


@sb.utils.data_pipeline.takes("tags", "labels")
@sb.utils.data_pipeline.provides("label")
def label_pipeline(tags, labels):
    """1 for each of the labels that is among the tags, else 0"""
    tags = set(tags.split("|")) - {""}
    if unknown := tags - set(labels):
        raise UserError(f"tag '{unknown.pop()}' is not in labels.txt")
    return [float(label in tags) for label in labels]


if __name__ == "__main__":
    run_probe(prepare_magnatagatune, label_pipeline)
