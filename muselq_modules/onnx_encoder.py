"""An exported ONNX file behind the interface of an encoder.

What has been exported, perhaps with smaller weights, can so be probed by
every recipe like the encoder itself: ``--pretrained encoder.onnx``.
"""

import hashlib
from pathlib import Path

import torch

from muselq_modules.adapters import ForeignEncoder
from muselq_modules.errors import UserError
from muselq_modules.onnx_export import require


class OnnxEncoder(ForeignEncoder):
    """Runs a file of `onnx_export` in onnxruntime, on the CPU.

    Parameters
    ----------
    path : str or Path
        Exported without pooling.

    Raises
    ------
    UserError
        When the file is none of ours, or onnxruntime is not installed.
    """

    def __init__(self, path):
        super().__init__()
        self.path = Path(path)
        runtime = require("onnxruntime")
        if not self.path.is_file():
            raise UserError(f"{path} does not exist: check the path.")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        try:
            self.session = runtime.InferenceSession(
                str(self.path), options, providers=["CPUExecutionProvider"]
            )
            facts = self.session.get_modelmeta().custom_metadata_map
            self.sample_rate = int(facts["sample_rate_hz"])
            self.token_rate_hz = float(facts["token_rate_hz"])
            self.n_layers, self.dim = int(facts["n_layers"]), int(facts["dim"])
            self.layers = [int(i) for i in facts["layers"].split(",")]
            pool = facts["pool"]
        except Exception as error:
            # onnxruntime has an exception of its own for every kind of fault.
            reason = " ".join(str(error).split())[:200]
            raise UserError(
                f"{path} is no encoder of muselq_modules.export_graph "
                f"({reason}): export it again."
            ) from error
        if pool != "none":
            raise UserError(
                f"{path} gives one vector a clip: export it with --pool none."
            )
        self.padded = len(self.session.get_inputs()) == 2

    def digest(self):
        """Hex sha256 of the file."""
        return hashlib.sha256(self.path.read_bytes()).hexdigest()

    def hidden_states(self, wav, layers):
        """Hidden states [layers, batch, time, dim] of clips of one length."""
        missing = sorted(set(layers) - set(self.layers))
        if missing:
            raise UserError(
                f"{self.path} gives the layers {self.layers} but not "
                f"{missing}: ask for those, or export it with --layers all."
            )
        feeds = {"wav": wav.cpu().numpy()}
        if self.padded:
            n_samples = torch.full((len(wav),), wav.shape[1])
            feeds["n_samples"] = n_samples.numpy()
        outputs = self.session.run([f"layer_{i}" for i in layers], feeds)
        states = [torch.from_numpy(x) for x in outputs]
        return torch.stack(states).to(wav.device)
