# These targets are exactly what CI runs (.ci/run). Environments are made once, and again only when
# what they hold has changed; delete a .venv* folder to start afresh.
PYTHON ?= python3
CLIP ?= $(firstword $(sort $(wildcard examples/*.mp4)))
ARGS ?=

BIN := $(if $(filter Windows_NT,$(OS)),Scripts,bin)
DEMO := .venv-demo
DEV := .venv
WHEEL := .venv-wheel
BLENDER := .venv-blender
RAY := .venv-ray
DIST := dist

# What the wheel is built from, and where the tests of the runtime run against it: a folder from
# which the checkout cannot be imported.
BUILD := pyproject.toml CMakeLists.txt $(shell find kernels -name '*.[ch]pp')
SOURCES := $(BUILD) README.md LICENSE ATTRIBUTION.md $(shell find vab_rt -type f -not -name '*.py[co]' -not -name '*.so')
ELSEWHERE := build/wheel-tests
RUNTIME_TESTS := tests/runtime tests/gpu
TESTS := $(shell find tests examples -type f -not -name '*.py[co]')
PASSED := $(WHEEL)/passed.xml
# The compiler's files of the wheel: CI makes it beside the editable installation.
APART := --config-settings=build-dir=$(DIST)/{wheel_tag}

export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Hundreds of tests start a process: what one has compiled serves the others.
unexport PYTHONDONTWRITEBYTECODE
# Tests run side by side, a file in one process; more threads in each make small graphs slower.
JOBS ?= 2
SIDE_BY_SIDE := -n $(JOBS) --dist loadfile --no-loadscope-reorder
test test-all test-wheel: export OMP_NUM_THREADS ?= 1

.PHONY: demo test test-all test-wheel test-blender test-ray check bench wheel
.DELETE_ON_ERROR:

demo: $(DEMO)/installed  ## a silent clip in, demo.wav out; installs the runtime alone, no PyTorch
	@test -n "$(CLIP)" || { echo "no clip: examples/*.mp4 is empty; use make demo CLIP=video.mp4"; exit 1; }
	$(DEMO)/$(BIN)/vab-rt generate $(CLIP) demo.wav --force
	@echo "demo.wav holds the sound of $(CLIP)"

test: $(DEV)/installed  ## what proves the product, in minutes
	$(DEV)/$(BIN)/python -m pytest $(SIDE_BY_SIDE) -m "not slow" $(RUNTIME_TESTS) $(ARGS)

test-all: $(DEV)/installed $(PASSED)  ## the runtime as it is installed, then what did not run so
	$(DEV)/$(BIN)/python -m pytest $(SIDE_BY_SIDE) --but-for=$(PASSED) $(ARGS)

# On another Python: make test-wheel PYTHON=python3.12 WHEEL=.venv-3.12 DIST=build/dist-3.12
test-wheel: $(PASSED)  ## not again before a change: delete $(PASSED) for that

$(PASSED): $(WHEEL)/installed $(TESTS)
	rm -rf $(ELSEWHERE) && mkdir -p $(ELSEWHERE) && cp -R tests examples $(ELSEWHERE)
	cd $(ELSEWHERE) && $(CURDIR)/$(WHEEL)/$(BIN)/python -c \
	  "import vab_rt; assert 'site-packages' in vab_rt.__file__, vab_rt.__file__"
	cd $(ELSEWHERE) && $(CURDIR)/$(WHEEL)/$(BIN)/python -m pytest -p no:cacheprovider $(SIDE_BY_SIDE) \
	  --import-mode=importlib -o pythonpath=tests --junitxml=$(CURDIR)/$(PASSED) $(RUNTIME_TESTS)

# Blender as a Python module, a gigabyte; it wants PYTHON to be 3.11.
test-blender: $(BLENDER)/installed  ## the add-on in Blender, as its zip installs it
	rm -rf build/blender
	$(BLENDER)/$(BIN)/python -m integrations.blender.build --python 3.11 --out build/blender
	BLENDER_ZIP="$$(echo build/blender/*.zip)" $(BLENDER)/$(BIN)/pytest -c /dev/null -p no:cacheprovider \
	  --rootdir integrations/blender/tests integrations/blender/tests

# Ray takes 617 MB, and its start 20 s: not in `dev`.
test-ray: $(RAY)/installed  ## vab_rt.on_ray with two workers, one of which is killed
	$(RAY)/$(BIN)/python -m pytest tests/runtime/test_on_ray.py $(ARGS)

check: $(DEV)/installed  ## format, lint, types, layers
	$(DEV)/$(BIN)/ruff format --check .
	$(DEV)/$(BIN)/ruff check .
	$(DEV)/$(BIN)/mypy --strict vab_rt
	$(DEV)/$(BIN)/lint-imports

bench: $(DEV)/installed $(DEMO)/installed  ## figures; the last line is one JSON object
	$(DEV)/$(BIN)/python -m bench generate --json $(ARGS)

wheel: $(DIST)/built  ## dist/vab_rt-*.whl

$(DEMO)/$(BIN)/pip $(DEV)/$(BIN)/pip $(WHEEL)/$(BIN)/pip $(BLENDER)/$(BIN)/pip $(RAY)/$(BIN)/pip:
	$(PYTHON) -m venv $(@D:/$(BIN)=)

$(DEMO)/installed: $(SOURCES) | $(DEMO)/$(BIN)/pip
	$(DEMO)/$(BIN)/pip install --quiet .
	touch $@

# Editable, so that only a change of the build needs another installation. Of 17,000 modules a few
# thousand are ever imported: these are compiled then.
$(DEV)/installed: $(BUILD) | $(DEV)/$(BIN)/pip
	$(DEV)/$(BIN)/pip install --quiet --no-compile --editable '.[dev]'
	touch $@

$(BLENDER)/installed: | $(BLENDER)/$(BIN)/pip
	$(BLENDER)/$(BIN)/pip install --quiet bpy==5.0.1 pytest
	touch $@

$(RAY)/installed: $(BUILD) | $(RAY)/$(BIN)/pip
	$(RAY)/$(BIN)/pip install --quiet --editable '.[ray,test]'
	touch $@

$(DIST)/built: $(SOURCES) | $(WHEEL)/$(BIN)/pip
	rm -rf $(DIST)
	$(WHEEL)/$(BIN)/pip wheel --quiet --no-deps --wheel-dir $(DIST) $(APART) .
	touch $@

$(WHEEL)/installed: $(DIST)/built
	$(WHEEL)/$(BIN)/pip install --quiet --force-reinstall --no-deps $(DIST)/vab_rt-*.whl
	$(WHEEL)/$(BIN)/pip install --quiet "$$(echo $(DIST)/vab_rt-*.whl)[test]"
	touch $@
