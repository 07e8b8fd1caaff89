# make demo       the main job on a small trained model, end to end
# make test       the tests (about five minutes on two cores, most of it the first set-up)
# make sanitize   the native modules' tests with AddressSanitizer and UndefinedBehaviorSanitizer (all, or SANITIZED_MODULES
#                 and SANITIZED_TESTS)
# make test-full  also the long ones: thousands of kills, every flip of a file, 10 GB conversions, sanitizers
# make bench      speed beside the peers, about twenty minutes (python benchmarks/run.py all --quick: two)
# make lint       ruff, mypy
#
# Everything runs in .venv, which is made on first use: Debian with Python 3.11 (venv, headers), gcc, g++ and make is enough.

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
PYTEST := HYPOTHESIS_PROFILE=ci $(BIN)/pytest -n 2
SOURCES := $(shell find qformat converters -name '*.cpp' -o -name '*.h' -o -name '*.hpp' -o -name 'CMakeLists.txt')

.PHONY: demo test test-full sanitize bench lint clean

demo: $(VENV)/built
	$(BIN)/python examples/demo.py

test: $(VENV)/built
	$(PYTEST)

test-full: $(VENV)/built sanitize
	HYPOTHESIS_PROFILE=full $(BIN)/pytest -n 2 -m "slow or not slow"

sanitize: $(VENV)/built
	$(BIN)/cmake -G Ninja -S qformat/kernels/cpp -B build/sanitized -DQFORMAT_SANITIZE=ON -DPython_EXECUTABLE=$(CURDIR)/$(BIN)/python
	$(BIN)/ninja -C build/sanitized $(SANITIZED_MODULES)
	HYPOTHESIS_PROFILE=ci $(BIN)/python tests/sanitized.py build/sanitized $(SANITIZED_TESTS)

bench: $(VENV)/bench
	$(BIN)/python benchmarks/run.py

lint: $(VENV)/built
	$(BIN)/ruff check .
	ln -sfn ../converters qformat/converters
	$(BIN)/mypy

# torch first, from a CPU build: what depends on it would otherwise bring one for GPUs.
$(VENV)/tools: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet torch==2.13.0
	$(BIN)/pip install --quiet "scikit-build-core>=0.11" "nanobind>=2.4" "cmake>=3.25" "ninja>=1.11"
	touch $@

# hqq is a reference to test against; its dependencies are far more than its solver needs.
$(VENV)/built: $(VENV)/tools $(SOURCES)
	$(BIN)/pip install --quiet --no-build-isolation --editable ".[dev]"
	$(BIN)/pip install --quiet --no-deps hqq
	touch $@

# llama.cpp is compiled here, for this processor; without it the other peers still stand beside us. aqlm's kernel needs none of
# its dependencies that are not here already.
$(VENV)/bench: $(VENV)/built
	CMAKE_ARGS="-DGGML_NATIVE=ON -DLLAVA_BUILD=OFF" $(BIN)/pip install --quiet --no-build-isolation --editable ".[bench]" \
	  || $(BIN)/pip install --quiet onnx onnxruntime numba scipy matplotlib \
	  || echo "some peers could not be installed: they are reported and left out"
	$(BIN)/pip install --quiet --no-deps aqlm || echo "aqlm could not be installed: it is left out"
	touch $@

clean:
	rm -rf $(VENV) build demo
