# `make demo` and `make test` do everything, from a fresh clone with Python 3.11 or newer and make alone.

PYTHON ?= python3
BIN := .venv/bin

.PHONY: help venv demo serve tutorial-textures test coverage lint types layers bench trust clean

help:  ## what can be made
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 20

venv: .venv/.installed  ## .venv with alocc and its development tools

.venv/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	@echo "installing alocc, PyTorch and the development tools into .venv: some minutes"
	$(BIN)/pip install --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: venv  ## train on the digit 1, judge 0 against 1, write demo/report.html
	$(BIN)/alocc train mnist --normal 1 --out demo --seed 0 --watch mnist --anomalous 0
	$(BIN)/alocc evaluate demo mnist --normal 1 --anomalous 0
	$(BIN)/alocc report demo

serve: venv  ## the demo's detector behind HTTP, and the page to work on; after `make demo`
	@test -e demo/model.safetensors || { echo "there is no detector in demo/; run make demo first"; exit 2; }
	@$(BIN)/alocc serve demo || case $$? in 130|143) ;; *) exit 2;; esac  # those are how it ends when it is told to

tutorial-textures: venv  ## damage on photographed brick: train, evaluate, report, in textures/
	$(BIN)/python examples/textures.py --normal brick

test: lint types layers  ## everything CI checks
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses=auto --dist=loadfile --no-loadscope-reorder --max-worker-restart=0

coverage: venv  ## the same tests, half as long again, and the lines that none of them runs; fails below nine in ten
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses=auto --dist=loadfile --no-loadscope-reorder --max-worker-restart=0 --cov --cov-report=term

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: venv
	$(BIN)/mypy

layers: venv
	$(BIN)/lint-imports

bench: venv  ## the published figures of speed, on this machine
	$(BIN)/python benchmarks/speed.py

trust: venv  ## the tables of docs/results/trust.md; hours, and it goes on where it stopped
	$(BIN)/alocc benchmark one-vs-rest mnist --out results/mnist --methods robust --seeds 5 --watch --processes 2
	$(BIN)/python benchmarks/suite.py --out results/suite --seeds 3 --processes 2
	$(BIN)/alocc benchmark outliers mnist --out results/outliers --methods robust --processes 2
	$(BIN)/alocc benchmark one-vs-rest mnist --out results/normals100 --normals 100 --methods robust,5-nn --processes 2
	$(BIN)/alocc benchmark one-vs-rest mnist --out results/dirty5 --contamination 0.05 --methods robust --processes 2
	$(BIN)/alocc benchmark one-vs-rest mnist --out results/dirty5told --contamination 0.05 --methods robust --processes 2 \
		--set training.contamination=0.05
	$(BIN)/alocc benchmark one-vs-rest mnist --out results/dr --methods robust --processes 2 \
		--set networks.discriminator_input=reconstruction --set 'scoring={d=1.0}' --set calibration.weights=fixed \
		--set training.discrimination.iterations=600
	$(BIN)/alocc benchmark one-vs-rest mnist --out results/baselines --processes 2 \
		--methods article,paper,ognet,5-nn,pca,ocsvm,iforest,lof,pyod-ae,pyod-vae,pyod-dsvdd \
		--set training.adversarial.iterations=500
	$(BIN)/python benchmarks/ablation.py results
	$(BIN)/alocc reproduce article --out results/article
	$(BIN)/python benchmarks/trust.py results
	$(BIN)/python benchmarks/false_positives.py results docs/results/false-positives.md
	$(BIN)/python benchmarks/large_images.py docs/results/large-images.md

clean:  ## remove what was built
	rm -rf .venv demo textures .coverage* .mypy_cache .ruff_cache .pytest_cache
