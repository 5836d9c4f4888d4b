"""MuseLQ: linear-complexity self-supervised music representations.

Read the modules in the order of the data: features, masking, tokenizer,
subsampling, summary_mixing, attention, branchformer, conformer, encoder,
model, losses, schedules, pretraining; then segments and sampling for the data,
embeddings and probing for the evaluation.
"""

from muselq_modules.compatibility import check_torch_pair

__version__ = "0.1.0"

check_torch_pair()
