"""An unusable pair of torch and torchaudio gives one sentence."""

import builtins
import importlib.metadata

import pytest

from muselq_modules.compatibility import REMEDY, check_torch_pair


def installed(**versions):
    def version(name):
        if name not in versions:
            raise importlib.metadata.PackageNotFoundError(name)
        return versions[name]

    return version


def refusal(**versions):
    with pytest.raises(ImportError) as caught:
        check_torch_pair(installed(**versions))
    sentence = str(caught.value)
    assert "\n" not in sentence and REMEDY in sentence
    return sentence


@pytest.mark.parametrize(
    "torch, torchaudio",
    [("2.11.0", "2.10.0"), ("2.10.1+cpu", "2.11.0"), ("2.1.0", "2.11.0")],
)
def test_mismatched_versions_are_named(torch, torchaudio):
    sentence = refusal(torch=torch, torchaudio=torchaudio)
    assert f"torch {torch} and torchaudio {torchaudio}" in sentence


@pytest.mark.parametrize("missing", ["torch", "torchaudio"])
def test_a_missing_package_is_named(missing):
    versions = {"torch": "2.11.0", "torchaudio": "2.11.0"}
    del versions[missing]
    assert refusal(**versions).startswith(f"{missing} is not installed")


def test_a_library_that_does_not_load_is_told(monkeypatch):
    original = builtins.__import__

    def broken(name, *args, **kwargs):
        if name == "torchaudio":
            raise OSError("libc10_cuda.so: cannot open shared object file")
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", broken)
    sentence = refusal(torch="2.11.0+cpu", torchaudio="2.11.0")
    assert "libc10_cuda.so" in sentence


@pytest.mark.parametrize("build", ["", "+cpu", "+cu128"])
def test_builds_of_one_version_belong_together(build):
    check_torch_pair(installed(torch=f"2.11.0{build}", torchaudio="2.11.0"))
