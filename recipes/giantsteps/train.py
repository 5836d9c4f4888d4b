"""GiantSteps key estimation with a probe on a frozen music encoder

    torchrun recipes/giantsteps/train.py recipes/giantsteps/hparams/key.yaml \
        --data_folder /data/giantsteps --pretrained results/brn_summary/1234
"""

import speechbrain as sb
from giantsteps_prepare import KEYS, prepare_giantsteps

from muselq_modules.errors import UserError
from muselq_modules.probing import run_probe


@sb.utils.data_pipeline.takes("key")
@sb.utils.data_pipeline.provides("label")
def label_pipeline(key):
    """0-11 major from C, 12-23 minor from C, 24 no key"""
    if key not in KEYS:
        raise UserError(f"key '{key}' is not one of {', '.join(KEYS)}")
    return KEYS.index(key)


if __name__ == "__main__":
    run_probe(prepare_giantsteps, label_pipeline)
