"""ONNX files give in onnxruntime what the encoder gives."""

import sys

import numpy as np
import pytest
import torch
from small_encoders import redraw, small_encoder
from test_torch_export import check, music, musical_encoder

from muselq_modules.baselines import load_any_encoder
from muselq_modules.embeddings import pool
from muselq_modules.errors import UserError
from muselq_modules.export_graph import main
from muselq_modules.onnx_encoder import OnnxEncoder
from muselq_modules.onnx_export import export_onnx
from muselq_modules.onnx_weights import store_weights

onnx = pytest.importorskip("onnx")
onnx_ir = pytest.importorskip("onnx_ir")
pytest.importorskip("onnxscript")
ort = pytest.importorskip("onnxruntime")


def session(path):
    return ort.InferenceSession(path, providers=["CPUExecutionProvider"])


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """An encoder of every mixer, and its file that takes padded clips."""
    encoder = musical_encoder(
        ("branchformer", "summary", "convnext"),
        dim=32,
        n_layers=2,
        input_whitening=1.0,
    )
    other = small_encoder("conformer", "attention", dim=32, n_layers=1)
    encoder.layers[1] = redraw(other.layers[0])
    path = tmp_path_factory.mktemp("onnx") / "padded.onnx"
    export_onnx(encoder, path, None, padded=True, license="cc0-1.0")
    return encoder, path


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """An encoder of other parts, and its file."""
    encoder = musical_encoder(
        ("conformer", "attention", "residual"), n_layers=1
    )
    folder = tmp_path_factory.mktemp("onnx")
    path = export_onnx(encoder, folder / "plain.onnx", [-1])
    assert [p.name for p in folder.iterdir()] == ["plain.onnx"]
    return encoder, path


def test_file_gives_what_the_encoder_gives(plain):
    encoder, path = plain
    runtime = session(path)

    def run(wav):
        outputs = runtime.run(["layer_1"], {"wav": wav.numpy()})
        return [torch.from_numpy(x) for x in outputs]

    check(run, encoder, [1])


# Between which bounds, relative to the norm, states differ from PyTorch's.
FORMS = {"fp32": (0, 3e-5), "fp16": (1e-4, 1e-3), "int8": (1e-2, 1e-1)}


@pytest.mark.parametrize("weights", FORMS)
def test_clips_of_different_length(exported, tmp_path, weights):
    encoder, path = exported
    least, most = FORMS[weights]
    if weights != "fp32":
        model = store_weights(onnx_ir.load(path), weights)
        path = tmp_path / "smaller.onnx"
        onnx.save(model, path)
    runtime = session(path)
    for n_samples in ([24000, 13000, 500], [64077], [1000, 960]):
        wav = music(max(n_samples) / 24000, len(n_samples))
        for clip, n in zip(wav, n_samples, strict=True):
            clip[n:] = 7.0  # what lies beyond the end is not looked at
        feeds = {"wav": wav.numpy(), "n_samples": np.array(n_samples)}
        *states, n_tokens = runtime.run(None, feeds)
        assert n_tokens.tolist() == [max(1, n // 960) for n in n_samples]
        assert len(states) == 3
        for i, n in enumerate(n_samples):
            with torch.no_grad():
                alone = encoder(wav[i : i + 1, :n], 24000).hidden_states
            for state, expected in zip(states, alone, strict=True):
                difference = state[i, : n_tokens[i]] - expected[0].numpy()
                error = np.linalg.norm(difference) / expected.norm()
                assert least <= error <= most


def test_file_says_what_it_is(exported):
    encoder, path = exported
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    facts = {entry.key: entry.value for entry in model.metadata_props}
    assert facts["encoder_digest"] == encoder.digest()
    assert facts["license"] == "cc0-1.0"
    assert facts["layers"] == "0,1,2" and facts["weights"] == "fp32"
    assert float(facts["token_rate_hz"]) == encoder.token_rate_hz
    sizes = {
        value.name: [d.dim_param or d.dim_value for d in dims.dim]
        for value in (*model.graph.input, *model.graph.output)
        for dims in [value.type.tensor_type.shape]
    }
    assert sizes["wav"] == ["batch", "samples"]
    assert sizes["layer_2"] == ["batch", "tokens", 32]
    assert sizes["n_tokens"] == ["batch"]
    # The tables of the log-mel are made when the file is loaded.
    n_values = sum(x.numel() for x in encoder.state_dict().values())
    n_values += encoder.log_mel.filters.numel()
    assert path.stat().st_size < 4 * n_values + 200_000
    assert b"muselq_modules/" not in path.read_bytes()


@pytest.mark.parametrize("weights", ["fp16", "int8"])
def test_no_large_weight_is_forgotten(exported, weights):
    _, path = exported
    model = store_weights(onnx_ir.load(path), weights)
    floats = [
        i.name
        for i in model.graph.initializer
        if i.data_type == onnx.TensorProto.FLOAT and len(i.dims) > 1
    ]
    kept = ("log_mel", "whitening")
    assert all(any(k in name for k in kept) for name in floats), floats
    kinds = [node.op_type for node in model.graph.node]
    # Front end 6; Branchformer: 3 in each of 4 heads, combiner in 2, merge in
    # 2, gate in 2; Conformer: attention 2, feed-forward 4, convolution 1.
    linear = 6 + 18 + 7
    assert kinds.count("MatMulInteger") == linear * (weights == "int8")


def test_file_as_encoder(exported, plain):
    lengths = torch.tensor([1.0, 0.5, 0.01])
    wav = music(1.0, 3)
    for (encoder, path), layers in ((exported, None), (plain, [-1])):
        loaded = load_any_encoder(path)
        assert isinstance(loaded, OnnxEncoder)
        assert loaded.digest() != encoder.digest()
        for name in ("sample_rate", "token_rate_hz", "n_layers", "dim"):
            assert getattr(loaded, name) == getattr(encoder, name)
        with torch.no_grad():
            expected = encoder(wav, 24000, lengths, layers)
        found = loaded(wav, 24000, lengths, layers)
        assert found.layers == expected.layers
        assert torch.equal(found.lengths, expected.lengths)
        torch.testing.assert_close(
            pool(loaded, found), pool(encoder, expected), atol=1e-3, rtol=0
        )
    with pytest.raises(UserError, match=r"gives the layers \[1\]"):
        loaded(wav, 24000, layers=[0])
    with pytest.raises(UserError, match="44100 Hz"):
        loaded(wav, 44100)


def test_command(tmp_path, monkeypatch, capsys):
    encoder = musical_encoder(("conformer", "lite", "convnext"), n_layers=0)
    monkeypatch.setattr(
        "muselq_modules.export_graph.load_encoder", lambda spec: encoder
    )
    monkeypatch.setattr(
        "muselq_modules.export_graph.licence_of", lambda spec: "cc0-1.0"
    )
    encoder.source = "/home/somebody/results/small"
    path = tmp_path / "e.onnx"
    main(
        [
            "small",
            str(path),
            "--layers",
            "last",
            "--pool",
            "mean",
            "--weights",
            "int8",
        ]
    )
    assert "layer_0 [batch, 24]" in capsys.readouterr().out
    runtime = session(path)
    (state,) = runtime.run(None, {"wav": music(1.0, 2).numpy()})
    assert state.shape == (2, 24)
    facts = runtime.get_modelmeta().custom_metadata_map
    assert facts["source"] == "small" and facts["license"] == "cc0-1.0"
    assert facts["weights"] == "int8" and facts["pool"] == "mean"
    with pytest.raises(UserError, match="--pool none"):
        OnnxEncoder(path)
    for arguments, sentence in (
        (["e.tflite"], "must end in .onnx or .pt2"),
        (["nowhere/e.onnx"], "nowhere does not exist"),
        (["e.pt2", "--weights", "int8"], "a .pt2 file has no int8"),
        (["e.onnx", "--layers", "7"], "layers [7] does not exist"),
        (["e.onnx", "--layers", "lats"], "--layers lats is neither"),
        (["e.tflite", "--pad"], "unrecognized arguments: --pad"),
    ):
        with pytest.raises(SystemExit) as end:
            main(["small", *arguments])
        assert end.value.code == 2
        assert sentence in capsys.readouterr().err
    (tmp_path / "other.onnx").write_bytes(b"no graph")
    with pytest.raises(UserError, match="is no encoder of muselq"):
        OnnxEncoder(tmp_path / "other.onnx")


def test_missing_package_is_one_sentence(monkeypatch, tmp_path):
    encoder = musical_encoder(("conformer", "lite", "convnext"), n_layers=0)
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(UserError, match=r"pip install 'muselq\[export\]'"):
        export_onnx(encoder, tmp_path / "e.onnx")
