"""Installs MuseLQ: pip install -e ."""

from pathlib import Path

from setuptools import setup

EXTRAS = {
    "codecs": ["torchcodec>=0.7"],
    # The networks that ours are compared with.
    "benchmarks": ["transformers>=4.50"],
    # Only to stream shards elsewhere: training reads them by itself.
    "shards": ["webdataset>=1.0"],
    # Other people's encoders: MERT is HuBERT of transformers.
    "mert": ["transformers>=5,<6"],
    # Rates such as 44,101 Hz, where torchaudio's filter takes gigabytes.
    "resample": ["soxr>=0.5"],
    "parquet": ["pyarrow>=16"],
    # ONNX files: the first two write them, the last runs and quantises them.
    "export": ["onnx>=1.18", "onnxscript>=0.5", "onnxruntime>=1.22"],
    "dev": [
        # What the tests of the benchmarks and of the shards import.
        "webdataset>=1.0",
        "pytest>=8",
        "pytest-xdist>=3.5",
        "ruff>=0.12",
        "yamllint>=1.35",
        "codespell>=2.3",
        "transformers>=5,<6",  # MERT, on random weights
        "hypothesis>=6.100",  # configurations of any words
        "selenium>=4.20",  # the page of explore, in headless Chromium
        # extract: odd rates and tables
        "soxr>=0.5",
        "pyarrow>=16",
        # exported graphs
        "onnx>=1.18",
        "onnxscript>=0.5",
        "onnxruntime>=1.22",
    ],
}

setup(
    name="muselq",
    version="0.1.0",
    description=(
        "SpeechBrain recipes for linear-complexity self-supervised music "
        "representations"
    ),
    long_description=Path(__file__).with_name("README.md").read_text("utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    packages=["muselq_modules"],
    package_data={
        "muselq_modules": [
            "*.json",
            "explore_assets/*.html",
            "explore_assets/*.css",
            "explore_assets/*.js",
        ]
    },
    python_requires=">=3.10,<3.14",
    # torchaudio 2.11 is its last release, and pairs with torch 2.11 only.
    install_requires=[
        "torch>=2.11,<2.12",
        "torchaudio>=2.11,<2.12",
        "speechbrain>=1.1.2,<1.2",
        "hyperpyyaml>=1.2.3,<2",
        "sentencepiece>=0.2",
        "soundfile>=0.13",
        "safetensors>=0.5",
        # from_pretrained and export; 0.34 brought `hf auth login`.
        "huggingface_hub>=0.34",
        "scikit-learn>=1.5",
        "mir_eval>=0.8",
        "matplotlib>=3.9",
        "tensorboard>=2.18",
    ],
    extras_require=EXTRAS,
)
