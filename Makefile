# make demo   pre-trains a small encoder on the samples, probes it, shows a page
# make test   checks everything
# make benchmarks  compares speed and memory with other networks, without a GPU
# make chaos  kills, starves and deceives every recipe, and shows what was lost
# make table  DATA=/data PRETRAINED=results/brn_summary/1234   every task there
# Each does all of its own set-up: only Python 3.10 to 3.13 must be there.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
RESULTS ?= results
RUN := PATH="$(CURDIR)/$(BIN):$$PATH"

.PHONY: demo test lint benchmarks chaos table clean
.DELETE_ON_ERROR:

$(VENV)/ready: setup.py
	$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if (3, 10) <= v <= (3, 13) else f"Python {v[0]}.{v[1]} is not supported: set PYTHON to one of 3.10 to 3.13, e.g. make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check torch==2.11.0 torchaudio==2.11.0
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[dev]"
	touch $@

demo: $(VENV)/ready
	$(RUN) torchrun recipes/pretrain/train.py hparams/demo.yaml \
		--data_folder tests/samples --output_folder $(RESULTS)/demo
	for encoder in $(RESULTS)/demo random:$(RESULTS)/demo mel; do \
		$(RUN) torchrun recipes/template/train.py recipes/template/hparams/timbre.yaml \
			--data_folder $(RESULTS)/demo_tones --pretrained $$encoder \
			--output_folder $(RESULTS)/demo_probes || exit 1; \
	done
	$(BIN)/python -m muselq_modules.results $(RESULTS)/demo_probes
	@echo
	@echo "Encoder: $(RESULTS)/demo (MusicEncoder.from_pretrained loads it)"
	@echo "Curves:  $(RESULTS)/demo/curves.png"

lint: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/yamllint -s .
	$(BIN)/codespell

test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -rs -n 2 --dist loadfile

benchmarks: $(VENV)/ready
	for script in mixing_cells mixing_profile depthwise quantizers front_ends embedding training_step \
			loader probing cost compression "embedding --seconds 300 --against MERT-330-shaped" \
			"context --pretrained pretrained/brn_summary_tiny" \
			"long_files --pretrained pretrained/brn_summary_tiny --minutes 2,20"; do \
		set -- $$script; name=$$1; shift; \
		OMP_NUM_THREADS=1 $(BIN)/python benchmarks/$$name.py "$$@" || exit 1; \
	done

chaos: $(VENV)/ready
	OMP_NUM_THREADS=1 PYTHONPATH=tests:. $(BIN)/python -m chaos --output $(RESULTS)/chaos

table: $(VENV)/ready
	$(BIN)/python -m muselq_modules.table $(DATA) $(PRETRAINED) $(RESULTS)

clean:
	rm -rf $(VENV) build *.egg-info
