# `make demo` and `make test` set everything up from a clean clone; later runs install nothing.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV   ?= .venv
PY     := $(VENV)/bin/python
STAMP  := $(VENV)/.installed
OUT    ?= outputs/demo
PROMPT ?= A dog is to the right of a traffic light, and a bird is above the dog.

BENCHMARK_METHODS ?= base,fixed,per-step
EMOJI  := --config configs/emoji/inference.yaml --steps 25 --batch-size 8 --methods $(BENCHMARK_METHODS)

.DEFAULT_GOAL := help
FONT   := /usr/share/fonts/truetype/noto/NotoColorEmoji.ttf
.PHONY: help install font browser demo web test test-slow fuzz bench gpu-check benchmark lint clean

help:  ## show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

install: $(STAMP)  ## create .venv and install the project into it

# Redone when what is to be installed changes. The pinned pair goes first: see requirements.txt.
$(STAMP): setup.py requirements.txt
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) -m pip install -r requirements.txt
	$(PY) -m pip install -r requirements.txt -e '.[dev,train]'
	touch $@

# Only scenes for training and their tests are drawn with it; the shipped model needs no font.
font:
	@test -f $(FONT) || { test "$$(id -u)" = 0 && command -v apt-get >/dev/null \
	  && apt-get update -qq && apt-get install -y -qq fonts-noto-color-emoji; } \
	  || echo "fonts-noto-color-emoji is not installed: tests that draw new scenes are skipped"

# Only the tests that look at the report and at the page open it; people use a browser of their own.
browser:
	@command -v chromedriver >/dev/null && { command -v chromium >/dev/null || command -v google-chrome >/dev/null; } \
	  || { test "$$(id -u)" = 0 && command -v apt-get >/dev/null \
	  && apt-get update -qq && apt-get install -y -qq chromium chromium-driver; } \
	  || echo "chromium with chromedriver is not installed: tests that look at pages are skipped"

demo: $(STAMP)  ## make the image of the README with the embedded model, and a small report of six prompts
	$(PY) scripts/txt2img-refine.py --plms --baseline --prompt "$(PROMPT)" --outdir $(OUT) $(ARGS)
	$(PY) scripts/txt2img-gpt.py --config configs/emoji/inference.yaml --prompts data/prompts/choose-gpt.txt --to 6 \
	  --methods base,per-step --steps 25 --batch-size 6 --outdir $(OUT)/report
	$(PY) scripts/evaluate.py score --run $(OUT)/report
	$(PY) scripts/evaluate.py report --run $(OUT)/report

web: $(STAMP)  ## a page to draw on at http://127.0.0.1:7860 (ARGS="--port N --ckpt FILE ...")
	$(PY) scripts/web.py $(ARGS)

# One process a core with one thread each: small models gain nothing from threads. Each process takes some 2 GB.
PYTEST := OMP_NUM_THREADS=1 $(PY) -m pytest -n auto --maxprocesses 4 --dist worksteal

test: $(STAMP) font browser  ## run the tests (ARGS= for pytest's own flags)
	$(PYTEST) $(ARGS)

test-slow: $(STAMP) font browser  ## run all tests, the slow ones too
	$(PYTEST) -m '' $(ARGS)

fuzz: $(STAMP)  ## try all readers and kills for long, and write docs/reliability.md (ARGS=--examples N --kills N)
	OMP_NUM_THREADS=1 $(PY) -m tests.reliability $(ARGS)

bench: $(STAMP)  ## time sampling and one optimized image, count the memory of a differentiated chain
	$(PY) -m bench $(ARGS)

gpu-check: $(STAMP)  ## golden vectors, images, noise, time and memory on a card (ARGS=--device NAME --out DIR)
	$(PY) -m bench.card $(ARGS)

benchmark: $(STAMP)  ## GenEval's tasks and VISOR's relations on the embedded model (docs/benchmarks.md)
	$(PY) scripts/evaluate.py benchmark geneval $(EMOJI) --prompts data/prompts/geneval-emoji.jsonl --seeds 42 \
	  --outdir $(OUT)/geneval $(ARGS)
	$(PY) scripts/evaluate.py benchmark visor $(EMOJI) --prompts data/prompts/visor-emoji.json \
	  --outdir $(OUT)/visor $(ARGS)

lint: $(STAMP)  ## style, types, and which package may import which
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy ldm layout_predictor bench scripts main.py setup.py
	$(VENV)/bin/lint-imports

clean:  ## remove the environment and what the demo wrote
	rm -rf $(VENV) outputs/demo
