"""Three lines from anywhere: `MusicEncoder.from_pretrained`, then the call."""

import subprocess
import sys

import pytest
import torch
from small_encoders import FRONT_ENDS, LAYERS, MIXERS, redraw, small_encoder
from small_run import finish_run

import muselq_modules
from muselq_modules import MusicEncoder
from muselq_modules.baselines import load_any_encoder
from muselq_modules.errors import UserError
from muselq_modules.features import LogMel

# Largest difference of a hidden state to that of the same clip alone, in
# bf16, as a share of the state's deviation: 0.043 is the worst measured.
# In float32 it is 1e-4, see test_padding.
BF16_TOLERANCE = 0.1


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return finish_run(tmp_path_factory.mktemp("from_pretrained"))


def clips():
    generator = torch.Generator().manual_seed(0)
    wav = torch.randn(3, 24000, generator=generator) * 0.1
    return wav, torch.tensor([24000, 12345, 960]) / 24000


def refusal(*args, **options):
    with pytest.raises(UserError) as caught:
        MusicEncoder.from_pretrained(*args, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_every_spec_of_a_folder_gives_the_same_encoder(run, monkeypatch):
    folder, encoder = run
    monkeypatch.chdir(folder.parent)
    for spec in (folder, str(folder), "run", "./run", folder / "encoder"):
        loaded = MusicEncoder.from_pretrained(spec, device="cpu")
        assert type(loaded) is MusicEncoder
        assert loaded.digest() == encoder.digest()
        assert loaded.source == str((folder.parent / spec).resolve())
        assert not loaded.training
        assert not any(p.requires_grad for p in loaded.parameters())
        again = MusicEncoder.from_pretrained(loaded.source, device="cpu")
        assert again.digest() == encoder.digest()
    assert load_any_encoder(folder).digest() == encoder.digest()
    random = load_any_encoder(f"random:{folder}")
    assert random.digest() != encoder.digest()
    assert random.source == f"random:{folder}"


def test_encoders_of_the_repository_are_found_from_anywhere(
    run, tmp_path, monkeypatch
):
    folder, encoder = run
    (tmp_path / "pretrained").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (folder / "encoder").rename(tmp_path / "pretrained" / "small")
    try:
        monkeypatch.setattr("muselq_modules.pretrained.PROJECT", tmp_path)
        monkeypatch.chdir(tmp_path / "elsewhere")
        loaded = MusicEncoder.from_pretrained("pretrained/small")
        assert loaded.digest() == encoder.digest()
    finally:
        (tmp_path / "pretrained" / "small").rename(folder / "encoder")


def test_replacing_the_file_does_not_change_a_loaded_encoder(run):
    """safetensors maps the file; the weights must not be views of it."""
    folder, encoder = run
    loaded = MusicEncoder.from_pretrained(folder, device="cpu")
    path = folder / "encoder" / "model.safetensors"
    content = path.read_bytes()
    with open(path, "r+b") as file:
        file.write(bytes(len(content)))
    try:
        assert loaded.digest() == encoder.digest()
    finally:
        path.write_bytes(content)


@pytest.mark.parametrize("front_end", FRONT_ENDS)
@pytest.mark.parametrize("mixer", MIXERS)
@pytest.mark.parametrize("layer", LAYERS)
@torch.no_grad()
def test_batched_equals_single_in_bf16(layer, mixer, front_end):
    encoder = redraw(small_encoder(layer, mixer, front_end)).bfloat16()
    wav, lengths = clips()
    together = encoder(wav, 24000, lengths)
    for i, length in enumerate(lengths):
        clip = wav[i, : round(float(length) * 24000)]
        alone = encoder(clip, 24000)
        n_tokens = int(alone.lengths)
        for padded, single in zip(together.hidden_states, alone.hidden_states):
            assert single.dtype == torch.bfloat16
            difference = (padded[i, :n_tokens] - single[0]).float().abs().max()
            assert difference <= BF16_TOLERANCE * single.float().std()


@pytest.mark.parametrize("dtype", ["bf16", torch.bfloat16])
def test_bf16_is_near_and_leaves_the_features_in_float32(run, dtype):
    folder, encoder = run
    loaded = MusicEncoder.from_pretrained(folder, device="cpu", dtype=dtype)
    assert {p.dtype for p in loaded.parameters()} == {torch.bfloat16}
    expected = dict(encoder.named_buffers())
    for name, buffer in loaded.named_buffers():
        assert torch.equal(buffer, expected[name]), name
    assert loaded.digest() != encoder.digest()
    wav, _ = clips()
    with torch.no_grad():
        exact, near = encoder(wav, 24000), loaded(wav, 24000)
    for first, second in zip(exact.hidden_states, near.hidden_states):
        error = (first - second.float()).square().mean().sqrt()
        assert 0 < error <= 0.03 * first.std()


def test_features_keep_their_type_however_they_are_moved():
    log_mel = LogMel(n_mels=16)
    for change in (log_mel.half, log_mel.double, log_mel.bfloat16):
        change()
        assert {b.dtype for b in log_mel.buffers()} == {torch.float32}
    log_mel.to("meta", torch.bfloat16)
    assert {b.device.type for b in log_mel.buffers()} == {"meta"}


def test_devices(run, monkeypatch):
    folder, _ = run
    assert "device nowhere" in refusal(folder, device="nowhere")
    assert "device cuda:99" in refusal(folder, device="cuda:99")
    monkeypatch.setattr("torch.accelerator.is_available", lambda: True)
    chosen = torch.device("meta")  # stands for CUDA or MPS
    monkeypatch.setattr("torch.accelerator.current_accelerator", lambda: chosen)
    loaded = MusicEncoder.from_pretrained(folder)
    assert {t.device.type for t in loaded.state_dict().values()} == {"meta"}
    monkeypatch.setattr("torch.accelerator.is_available", lambda: False)
    loaded = MusicEncoder.from_pretrained(folder)
    assert {t.device.type for t in loaded.state_dict().values()} == {"cpu"}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_a_gpu_gives_what_the_cpu_gives(run):
    folder, encoder = run
    loaded = MusicEncoder.from_pretrained(folder, device="cuda")
    wav, lengths = clips()
    out, expected = loaded(wav, 24000, lengths), encoder(wav, 24000, lengths)
    for got, state in zip(out.hidden_states, expected.hidden_states):
        assert got.is_cuda
        torch.testing.assert_close(got.cpu(), state, atol=2e-2, rtol=2e-2)


def test_what_is_no_encoder_is_told(run, tmp_path):
    folder, _ = run
    assert "is a file" in refusal(folder / "encoder" / "model.safetensors")
    assert "does not exist" in refusal(tmp_path / "none")
    assert "does not exist" in refusal("none")
    assert "does not exist" in refusal("https://example.org/a/b")
    assert "no revision" in refusal(folder, revision="v1")
    assert "fp32 or bf16" in refusal(folder, dtype="int8")
    assert "fp32 or bf16" in refusal(folder, dtype=torch.float16)


def test_the_package_gives_the_encoder_on_demand_only():
    code = (
        "import sys, muselq_modules\n"
        "heavy = {'speechbrain', 'transformers', 'huggingface_hub'}\n"
        "assert not heavy & set(sys.modules)\n"
        "assert 'muselq_modules.encoder' not in sys.modules\n"
        "from muselq_modules import MusicEncoder\n"
        "assert not heavy & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)
    with pytest.raises(AttributeError, match="MusicDecoder"):
        _ = muselq_modules.MusicDecoder
