"""MTG-Jamendo tagging with a probe on a frozen music encoder

    torchrun recipes/mtg_jamendo/train.py \
        recipes/mtg_jamendo/hparams/top50tags.yaml \
        --data_folder /data/jamendo --pretrained results/brn_summary/1234
"""

import speechbrain as sb
from mtg_jamendo_prepare import prepare_mtg_jamendo

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
    run_probe(prepare_mtg_jamendo, label_pipeline)
