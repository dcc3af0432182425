# These targets are exactly what CI runs (.ci/run). Environments are made once, and again only when
# what they hold has changed; delete a .venv* folder to start afresh.
PYTHON ?= python3
CLIP ?= $(firstword $(sort $(wildcard examples/*.mp4)))
ARGS ?=

DEMO := .venv-demo
DEV := .venv
WHEEL := .venv-wheel

# What the wheel is built from, and where the tests of the runtime run against it: a folder from
# which the checkout cannot be imported.
BUILD := pyproject.toml CMakeLists.txt $(shell find kernels -name '*.[ch]pp')
SOURCES := $(BUILD) README.md LICENSE $(shell find vab_rt -type f -not -name '*.py[co]' -not -name '*.so')
ELSEWHERE := build/wheel-tests
NEEDS_TORCH := test_export_* test_training_* test_foleyworld* test_bench* test_readme*

export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Two threads are the most that the small graphs of the tests can use.
export OMP_NUM_THREADS ?= 2

.PHONY: demo test check bench wheel
.DELETE_ON_ERROR:

demo: $(DEMO)/installed  ## a silent clip in, demo.wav out; installs the runtime alone, no PyTorch
	@test -n "$(CLIP)" || { echo "no clip: examples/*.mp4 is empty; use make demo CLIP=video.mp4"; exit 1; }
	$(DEMO)/bin/vab-rt generate $(CLIP) demo.wav --force
	@echo "demo.wav holds the sound of $(CLIP)"

test: $(DEV)/installed $(WHEEL)/installed  ## everything; then the runtime again, as installed
	$(DEV)/bin/python -m pytest $(ARGS)
	rm -rf $(ELSEWHERE) && mkdir -p $(ELSEWHERE) && cp -R tests $(ELSEWHERE)/tests
	cd $(ELSEWHERE) && $(CURDIR)/$(WHEEL)/bin/python -m pytest -c /dev/null --rootdir . \
	  -o markers=slow -p no:cacheprovider \
	  $(foreach name,$(NEEDS_TORCH),--ignore-glob='*/$(name)') tests

check: $(DEV)/installed  ## format, lint, types, layers
	$(DEV)/bin/ruff format --check .
	$(DEV)/bin/ruff check .
	$(DEV)/bin/mypy --strict vab_rt
	$(DEV)/bin/lint-imports

bench: $(DEV)/installed $(DEMO)/installed  ## figures; the last line is one JSON object
	$(DEV)/bin/python -m bench generate --json $(ARGS)

wheel: dist/built  ## dist/vab_rt-*.whl

$(DEMO)/bin/pip $(DEV)/bin/pip $(WHEEL)/bin/pip:
	$(PYTHON) -m venv $(@D:/bin=)

$(DEMO)/installed: $(DEMO)/bin/pip $(SOURCES)
	$(DEMO)/bin/pip install --quiet .
	touch $@

# Editable, so that only a change of the build needs another installation.
$(DEV)/installed: $(DEV)/bin/pip $(BUILD)
	$(DEV)/bin/pip install --quiet --editable '.[dev]'
	touch $@

dist/built: $(WHEEL)/bin/pip $(SOURCES)
	rm -rf dist
	$(WHEEL)/bin/pip wheel --quiet --no-deps --wheel-dir dist .
	touch $@

$(WHEEL)/installed: dist/built
	$(WHEEL)/bin/pip install --quiet --force-reinstall --no-deps dist/vab_rt-*.whl
	$(WHEEL)/bin/pip install --quiet dist/vab_rt-*.whl 'pytest>=8' 'hypothesis>=6' 'onnx>=1.21'
	touch $@
