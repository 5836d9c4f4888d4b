"""An exported folder: what it holds, what its card says, who can load it."""

import json
import os
import shutil

import pytest
import torch
import yaml
from small_run import COMMIT, finish_run, make_run, save_checkpoint
from speechbrain.inference.encoders import WaveformEncoder

from muselq_modules.checksums import file_digest
from muselq_modules.description import describe, to_yaml
from muselq_modules.encoder import MusicEncoder
from muselq_modules.errors import UserError
from muselq_modules.export import export_encoder, main
from muselq_modules.interfaces import MusicEncoderInterface
from muselq_modules.pretrained import load_encoder

FILES = ["README.md", "config.json", "hyperparams.yaml", "model.safetensors"]
OPTIONS = {
    "--license": "cc-by-4.0",
    "--data": "Songs of the sea",
    "--data_license": "CC BY 4.0",
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return finish_run(tmp_path_factory.mktemp("export"))


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory):
    out = tmp_path_factory.mktemp("exported") / "sea_songs"
    main([str(run[0]), str(out), *[w for o in OPTIONS.items() for w in o]])
    return out


def refusal(capsys, *argv):
    with pytest.raises(SystemExit) as caught:
        main([str(word) for word in argv])
    assert caught.value.code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    return lines[0]


def wav():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 24000, generator=generator) * 0.1


def test_half_the_size(run, exported, tmp_path):
    out = tmp_path / "half"
    main([str(run[0]), str(out), "--half"])
    sizes = [
        (folder / "model.safetensors").stat().st_size
        for folder in (exported, out)
    ]
    assert sizes[1] < 0.6 * sizes[0]
    whole, half = (MusicEncoder.from_pretrained(f) for f in (exported, out))
    assert half.norm.weight.dtype == torch.float32
    assert torch.equal(half.log_mel.mean, whole.log_mel.mean)
    expected = whole(wav(), 24000).hidden_states[-1]
    error = (half(wav(), 24000).hidden_states[-1] - expected).abs().max()
    assert 0 < error < 1e-2
    assert half.digest() in (out / "README.md").read_text("utf-8")
    assert half.digest() != whole.digest()


def test_the_folder(run, exported):
    folder, encoder = run
    assert sorted(p.name for p in exported.iterdir()) == FILES
    for path in exported.iterdir():
        # As any new file, for others of a group to read.
        new = exported.parent / "new"
        new.touch()
        assert path.stat().st_mode == new.stat().st_mode, path
    loaded = MusicEncoder.from_pretrained(exported, device="cpu")
    assert loaded.digest() == encoder.digest()
    config = json.loads((exported / "config.json").read_text())
    assert config["format"] == 1


def test_nothing_of_the_run_that_is_private_gets_out(run, exported):
    for path in exported.iterdir():
        content = path.read_bytes()
        assert b"secret" not in content
        assert str(run[0].parent).encode() not in content
        assert str(exported.parent).encode() not in content


def test_the_card(run, exported):
    text = (exported / "README.md").read_text()
    header, body = text.removeprefix("---\n").split("\n---\n", 1)
    header = yaml.safe_load(header)
    assert header["license"] == "cc-by-4.0"
    assert header["library_name"] == "speechbrain"
    assert header["pipeline_tag"] == "feature-extraction"
    assert {"music", "branchformer", "rotary-self-attention"} <= {
        *header["tags"]
    }
    for words in (
        "# sea_songs",
        'MusicEncoder.from_pretrained("sea_songs")',
        "| layers | 2 x BranchformerLayer |",
        "| mixer | RotarySelfAttention |",
        "Songs of the sea",
        "| licence of the data | CC BY 4.0 |",
        "| training | 0.60 h in 27 files |",
        "| steps | 30 of 30 |",
        "| held-out token_loss | 7.25 |",
        "| held-out masked_accuracy | 0.0625 |",
        "| seeds | 1234 |",
        f"| commit | {COMMIT} |",
        "| device | 2 x NVIDIA H200 |",
        "segments of 2 s",
        "Weights: cc-by-4.0.",
        "## Intended use and limits",
        file_digest(exported / "model.safetensors"),
        run[1].digest(),
    ):
        assert words in body, words


def test_the_python_of_the_card_runs(exported, monkeypatch):
    text = (exported / "README.md").read_text()
    code = text.split("```python\n")[1].split("```")[0]
    monkeypatch.chdir(exported.parent)
    names = {"wav": wav()}
    exec(compile(code, "README.md", "exec"), names)
    assert names["out"].hidden_states[-1].shape == (2, 25, 24)


def test_what_is_not_known_is_said_to_be_missing(run, tmp_path):
    folder, encoder = make_run(tmp_path)
    save_checkpoint(folder, encoder, 12)
    out = export_encoder(folder, tmp_path / "bare")
    text = (out / "README.md").read_text()
    assert "license:" not in text.split("---")[1]
    for words in (
        "What the music is was not stated",
        "| licence of the data | not stated |",
        "| steps | 12 of 30 |",
        "Weights: not stated.",
        "None is part of this export",
    ):
        assert words in text, words


def test_an_unfinished_run_tells_the_step_of_its_weights(run, tmp_path):
    folder = shutil.copytree(run[0], tmp_path / "run")
    shutil.rmtree(folder / "encoder")
    (tmp_path / "model").mkdir()
    _, model = make_run(tmp_path / "model")
    save_checkpoint(folder, model, 10)
    save_checkpoint(folder, model, 20)
    out = export_encoder(folder, tmp_path / "early")
    text = (out / "README.md").read_text()
    # The log goes on to step 30, and was validated there only.
    assert "| steps | 20 of 30 |" in text
    assert "held-out" not in text
    (folder / "save" / "CKPT+000000020" / "CKPT.yaml").unlink()
    with pytest.raises(UserError, match="does not say its step"):
        export_encoder(folder, tmp_path / "again")


def result(digest, name, value):
    return {
        "dataset": "gtzan",
        "task": "genre",
        "metrics": ["accuracy"],
        "protocol": "paper",
        "probe": {"finetune": False},
        "seeds": [1, 2, 3],
        "encoder": {"name": name, "digest": digest},
        "test": {
            "accuracy": {"mean": value, "std": 0.0, "interval": [0.1, 0.9]}
        },
    }


def test_downstream_results_are_those_of_this_encoder(run, tmp_path, capsys):
    folder, encoder = run
    results = tmp_path / "results"
    for name, digest, value in (
        ("mine", encoder.digest(), 0.75),
        ("mel", "m" * 64, 0.5),
        ("stranger", "s" * 64, 0.9),
    ):
        path = results / "gtzan_genre" / name / "results.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(result(digest, name, value)))
    out = export_encoder(folder, tmp_path / "out", results=results)
    text = (out / "README.md").read_text()
    assert "| Task, metric | mel | mine |" in text
    assert ".500 [.100, .900] | .750 [.100, .900] |" in text
    assert "stranger" not in text and "3 seeds" in text
    shutil.rmtree(results / "gtzan_genre" / "mine")
    sentence = refusal(capsys, folder, tmp_path / "none", "--results", results)
    assert encoder.digest()[:12] in sentence
    assert not (tmp_path / "none").exists()


def test_speechbrain_loads_it_strictly(exported, tmp_path):
    options = {"run_opts": {"device": "cpu"}}
    encoder = load_encoder(exported)
    lengths = torch.tensor([1.0, 0.5])
    expected = encoder(wav(), 24000, lengths)
    for savedir in (None, tmp_path / "saved"):
        interface = MusicEncoderInterface.from_hparams(
            str(exported), savedir=savedir, **options
        )
        assert interface.audio_normalizer.sample_rate == 24000
        assert not any(p.requires_grad for p in interface.parameters())
        for out in (
            interface.encode_batch(wav(), lengths),
            interface(wav(), lengths),
        ):
            for got, state in zip(out.hidden_states, expected.hidden_states):
                assert torch.equal(got, state)
    # ... where SpeechBrain's own would only warn.
    spoilt = shutil.copytree(exported, tmp_path / "spoilt")
    path = spoilt / "hyperparams.yaml"
    path.write_text(path.read_text().replace("n_layers: 2", "n_layers: 3"))
    with pytest.raises(UserError, match=r"layers\.2.* is missing"):
        MusicEncoderInterface.from_hparams(str(spoilt), **options)
    (spoilt / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"model\.safetensors cannot be read"):
        MusicEncoderInterface.from_hparams(str(spoilt), **options)
    # Its own interface calls an encoder without a rate: told, not guessed.
    waveform = WaveformEncoder.from_hparams(str(exported), **options)
    with pytest.raises(UserError, match="no rate in Hz"):
        waveform.encode_batch(wav(), lengths)


def test_speechbrain_reads_files_at_the_right_rate(exported, tmp_path):
    import soundfile

    time = torch.arange(44100) / 44100
    tone = 0.3 * torch.sin(2 * torch.pi * 440 * time)
    soundfile.write(tmp_path / "a.wav", torch.stack([tone, tone], 1), 44100)
    interface = MusicEncoderInterface.from_hparams(
        str(exported), run_opts={"device": "cpu"}
    )
    out = interface.encode_file(tmp_path / "a.wav", layers=[0])
    encoder = load_encoder(exported)
    expected = encoder(tone, 44100, layers=[0], resample=True)
    wrong = encoder(tone, 24000, layers=[0])
    assert out.lengths.tolist() == [25]
    # Two resamplers: near, not equal.
    middle = slice(2, 23)
    state, near, far = (
        o.hidden_states[0][0, middle] for o in (expected, out, wrong)
    )
    assert (near - state).abs().mean() < 0.1 * state.std()
    assert (far - state).abs().mean() > 0.3 * state.std()


def test_exporting_twice_changes_nothing(run, exported, tmp_path, capsys):
    folder, _ = run
    out = tmp_path / "twice"
    options = [word for option in OPTIONS.items() for word in option]
    main([str(folder), str(out), *options])
    before = {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in out.iterdir()}
    main([str(folder), str(out), *options])
    after = {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in out.iterdir()}
    assert before == after
    (out / "README.md").write_text("edited by hand")
    sentence = refusal(capsys, folder, out, *options)
    assert "README.md" in sentence and "--overwrite" in sentence
    assert (out / "README.md").read_text() == "edited by hand"
    main([str(folder), str(out), *options, "--overwrite"])
    assert {p: p.read_bytes() for p in out.iterdir()} == {
        path: content for path, (content, _) in before.items()
    }
    assert sorted(p.name for p in tmp_path.iterdir()) == ["twice"]


def test_a_killed_export_leaves_nothing_behind(run, tmp_path, monkeypatch):
    def killed(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("muselq_modules.export.model_card", killed)
    with pytest.raises(KeyboardInterrupt):
        export_encoder(run[0], tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_data_may_be_described_in_a_file(run, tmp_path):
    (tmp_path / "data.md").write_text("Many\n\nparagraphs\n")
    data = str(tmp_path / "data.md")
    main([str(run[0]), str(tmp_path / "out"), "--data", data])
    text = (tmp_path / "out" / "README.md").read_text()
    assert "## Training data\n\nMany\n\nparagraphs\n" in text


def test_bad_input_is_one_sentence(run, exported, tmp_path, capsys):
    folder, _ = run
    out = tmp_path / "out"
    (tmp_path / "file").touch()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "song.wav").touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / "token").mkdir()
    for argv, words in (
        ([tmp_path / "none", out], "is no folder"),
        ([tmp_path / "empty", out], "hyperparams.yaml does not exist"),
        ([exported, out], "exported already"),
        ([folder, tmp_path / "file"], "is a file"),
        ([folder, tmp_path / "full"], "song.wav"),
        ([folder, folder], "is no exported folder"),
        ([folder, tmp_path / "file" / "out"], "cannot be written"),
        ([folder, out, "--license", "Apache 2"], "apache-2.0"),
        ([folder, out, "--public"], "--push"),
        ([folder, out, "--push", "name"], "give org/name"),
        ([folder, out, "--push", "org/name@v1"], "give org/name"),
        ([folder, out, "--push", "org/name"], "--license and --data"),
        ([folder, out, "--results", tmp_path / "empty"], "No finished run"),
    ):
        assert words in refusal(capsys, *argv), argv
        assert not out.exists()


def test_damaged_records_are_named(run, tmp_path, capsys):
    for name in ("run.json", "data.json", "train_log.jsonl"):
        folder = shutil.copytree(run[0], tmp_path / name / "run")
        (folder / name).write_text("{damaged\n")
        sentence = refusal(capsys, folder, tmp_path / "out")
        assert name in sentence and "damaged" in sentence
        assert not (tmp_path / "out").exists()


def test_push(run, tmp_path, monkeypatch, capsys):
    options = ["--push", "org/name", "--license", "mit", "--data", "Songs"]
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    out = tmp_path / "out"
    assert "hf auth login" in refusal(capsys, run[0], out, *options)
    assert not out.exists()
    calls = []

    def upload(*arguments):
        calls.append(arguments)
        return "org/name@abc"

    monkeypatch.setattr("huggingface_hub.get_token", lambda: "hf_secret")
    monkeypatch.setattr("muselq_modules.export.upload", upload)
    main([str(run[0]), str(out), *options])
    assert calls == [(out, "org/name", False)]
    printed = capsys.readouterr().out
    assert 'MusicEncoder.from_pretrained("org/name@abc")' in printed
    text = (out / "README.md").read_text()
    assert 'MusicEncoder.from_pretrained("org/name")' in text
    main([str(run[0]), str(out), *options, "--public"])
    assert calls[-1] == (out, "org/name", True)


def test_the_yaml_is_the_description(run, tmp_path):
    config = describe(run[0] / "hyperparams.yaml", "encoder")
    config["arguments"].update(a=1e-5, b=None, c="x: y", d=[1, 2.5], e=True)
    path = tmp_path / "again.yaml"
    path.write_text(f"encoder:{to_yaml(config)}\n")
    again = describe(path, "encoder")
    assert again == config
    assert isinstance(again["arguments"]["a"], float)


def test_read_only_places_are_told(run, tmp_path, capsys, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, os.strerror(13))

    monkeypatch.setattr("muselq_modules.export.write_weights", refuse)
    sentence = refusal(capsys, run[0], tmp_path / "out")
    assert "Permission denied" in sentence and "choose another" in sentence


def test_a_name_that_is_no_text_is_refused(run, tmp_path, capsys):
    sentence = refusal(capsys, run[0], tmp_path / "out", "--name", "\udcff")
    assert "--name holds bytes that are no text" in sentence
    assert not (tmp_path / "out").exists()
