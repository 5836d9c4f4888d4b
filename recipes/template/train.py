"""Template: the timbre of a tone with a probe on a frozen music encoder.

    torchrun recipes/template/train.py recipes/template/hparams/timbre.yaml \
        --data_folder results/template_tones --pretrained mel
"""

import speechbrain as sb
from template_prepare import TIMBRES, prepare_template

from muselq_modules.errors import UserError
from muselq_modules.probing import run_probe


# From columns of the manifest to what the probe is to predict: an int (one of
# n_outputs classes), a list of 0.0 and 1.0 (tags) or of floats (regression).
@sb.utils.data_pipeline.takes("timbre")
@sb.utils.data_pipeline.provides("label")
def label_pipeline(timbre):
    """The index of the timbre."""
    if timbre not in TIMBRES:
        raise UserError(f"timbre '{timbre}' is none of {', '.join(TIMBRES)}")
    return TIMBRES.index(timbre)


if __name__ == "__main__":
    run_probe(prepare_template, label_pipeline)
