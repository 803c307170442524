# `make demo` and `make test` work on a machine with nothing but Python >= 3.11: each makes the .venv it needs.
# (The package itself runs on 3.10; the pinned transformers does not.)
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RIVALS := .venv-bench
LLAVA := .venv-llava
LLAVA_NEXT := .venv-llava-next
FACTORY := .venv-llamafactory
SWIFT := .venv-swift
VISION := .venv-vision
FLOORS := .venv-floors
NEXT ?=
# The oldest that the package takes, the first whose compiler takes the loss, and the newest.
TORCH ?= 2.4.1 2.6.0 2.15.0
# What the extras of the least versions are for.
FLOORS_TESTS := $(addprefix tests/,cli collect compare data estimate metrics project report runs)
TORCH_TESTS := $(addprefix tests/test_,$(addsuffix .py,losses losses_input modules compile_ops backward_twice \
  accumulated_weight wanted_gradients plain_calls inplace gradcheck step_loss step_balance normalizer weights))
LLAVA_TESTS := tests/integrations/llava
# Its pins have no packages for a newer Python; without them its tests are not run, and make says so.
LLAVA_READY := $(shell $(PYTHON) -c 'import sys; print(".venv-llava/.ready" if sys.version_info[:2] == (3, 11) else "")')
# LLaVA's own pin, for one run beside the newer one that DeepSpeed needs.
LLAVA_ACCELERATE := $(LLAVA)/accelerate-0.21.0
FLASH_FILE := $(RIVALS)/cross_entropy.py
# One thread per process: OpenMP threads of parallel processes spin against each other.
export OMP_NUM_THREADS := 1
# One more than the two cores: many tests wait for processes of their own.
JOBS ?= 3
THREADS ?= 2
DEMO_ARGS ?=

# $(call on-top-of,B,A): the environment A with all that B has, its editable packages too.
on-top-of = test -x $(2)/bin/python || $(1)/bin/python -m venv $(2); \
  purelib='import sysconfig; print(sysconfig.get_path("purelib"))'; \
  echo "import site; site.addsitedir('$$($(1)/bin/python -c "$$purelib")')" \
  > "$$($(2)/bin/python -c "$$purelib")/beneath.pth"

.PHONY: help demo test test-full test-llava test-llava-accelerate test-llava-next test-llamafactory test-swift test-vision test-torch test-floors test-breakage test-gpu lint format bench bench-rivals clean
help:
	@echo "make demo       Algorithm 1 on real handwritten digits (about 5 minutes); DEMO_ARGS='--seed 1' passes options on"
	@echo "make test       the tests (within 15 minutes on 2 cores)"
	@echo "make test-full  the tests with their long matrices"
	@echo "make test-llava the tests on LLaVA's own training alone"
	@echo "make test-llava-next NEXT=...  the tests on a checkout of LLaVA-NeXT's repository (in no index)"
	@echo "make test-llamafactory  the tests on LLaMA-Factory's own training"
	@echo "make test-swift  the tests on ms-swift's own training"
	@echo "make test-vision  the tests on Hugging Face's models with torchvision, as most users have it; Qwen-VL and others"
	@echo "make test-torch TORCH='2.4.1 2.15.0'  the losses and the kernels' compilation with these (gigabytes each)"
	@echo "make test-floors  the tests of the command line, data, estimates and reports with the oldest packages they take"
	@echo "make test-breakage  breaks the loss on purpose and lists the tests that notice"
	@echo "make test-gpu   the kernels on the GPU of this machine (make test runs it too, where there is one)"
	@echo "make lint       ruff, mypy, and that every test can be imported"
	@echo "make bench      the benchmarks that need no GPU"
	@echo "make bench-rivals  installs the rivals that make bench compares with"

$(VENV)/.ready: pyproject.toml constraints.txt setup.py
	@echo "== making $(VENV) (torch, transformers and the tools: once, a few minutes)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "expected Python 3.11 or newer, got $$($(PYTHON) --version); try: make PYTHON=python3.12 ..."; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	@# Its build imports torch, so it cannot be isolated; none of its own kernels is built.
	@DS_BUILD_OPS=0 $(BIN)/python -m pip install --quiet --constraint constraints.txt --no-build-isolation deepspeed
	@touch $@

# LLaVA's own training code, whose pins are another world.
$(LLAVA)/.ready: requirements-llava.txt pyproject.toml setup.py
	@echo "== making $(LLAVA) (LLaVA's training code: once, a few minutes)"
	@test -x $(LLAVA)/bin/python || $(PYTHON) -m venv $(LLAVA)
	@$(LLAVA)/bin/python -m pip install --quiet --requirement requirements-llava.txt --editable .
	@DS_BUILD_OPS=0 $(LLAVA)/bin/python -m pip install --quiet --no-build-isolation deepspeed==0.19.8
	@# Last, and without its dependencies: pip would complain that its old pins are not kept.
	@$(LLAVA)/bin/python -m pip install --quiet --no-deps llava-torch==1.2.2.post1
	@rm -rf $(LLAVA_ACCELERATE)
	@$(LLAVA)/bin/python -m pip install --quiet --no-deps --target $(LLAVA_ACCELERATE) accelerate==0.21.0
	@touch $@

# What LLaVA-NeXT needs instead; the rest, torch and DeepSpeed among it, is $(LLAVA)'s.
$(LLAVA_NEXT)/.ready: tests/integrations/llava_next/requirements.txt $(LLAVA)/.ready
	@echo "== making $(LLAVA_NEXT) (what LLaVA-NeXT's training code imports: once, a minute)"
	@$(call on-top-of,$(LLAVA),$(LLAVA_NEXT))
	@$(LLAVA_NEXT)/bin/python -m pip install --quiet --requirement $<
	@touch $@

# What ms-swift pins below what the other tests run with; the rest, torch among it, is $(VENV)'s, torchvision $(VISION)'s.
$(SWIFT)/.ready: tests/integrations/swift/requirements.txt $(VISION)/.ready
	@echo "== making $(SWIFT) (ms-swift and what it imports: once, a few minutes)"
	@$(call on-top-of,$(VISION),$(SWIFT))
	@$(SWIFT)/bin/python -m pip install --quiet --requirement $<
	@touch $@

# LLaMA-Factory asks for older packages; torch and the tools are $(VENV)'s. Its pins would bring another torch, and
# torchaudio's compiled part asks for CUDA's libraries; no test has sound.
$(FACTORY)/.ready: tests/integrations/llamafactory/requirements.txt $(VISION)/.ready
	@echo "== making $(FACTORY) (LLaMA-Factory's training code: once, a minute)"
	@$(call on-top-of,$(VISION),$(FACTORY))
	@$(FACTORY)/bin/python -m pip install --quiet --requirement $<
	@$(FACTORY)/bin/python -m pip install --quiet --no-deps llamafactory==0.9.5 torchaudio==2.11.1
	@rm -f $(FACTORY)/lib/python3*/site-packages/torchaudio/lib/*.so
	@touch $@

# torchvision, for whose sake the models' pictures are processed otherwise, and which Qwen-VL and others need. Beside a
# torch without CUDA its compiled part cannot be loaded: then nothing of it may be registered. The processors use none.
$(VISION)/.ready: $(VENV)/.ready
	@echo "== making $(VISION) (torchvision: once, half a minute)"
	@$(call on-top-of,$(VENV),$(VISION))
	@$(VISION)/bin/python -m pip install --quiet --no-deps torchvision==0.28.0 num2words==0.5.14 docopt==0.6.2
	@sed -i.before -E 's/^@torch\.library\.register_fake\("torchvision::(q?nms)"\)/@register_meta("\1")/' \
	  $(VISION)/lib/python3*/site-packages/torchvision/_meta_registrations.py
	@$(VISION)/bin/python -c "import torchvision"
	@touch $@

demo: $(VENV)/.ready
	@echo "== cotbal demo $(DEMO_ARGS)"
	@$(BIN)/cotbal demo $(DEMO_ARGS)

test: $(VENV)/.ready $(LLAVA_READY)
	@echo "== tests, $(JOBS) processes"
	@$(BIN)/python -m pytest -n $(JOBS) --dist worksteal -m "not full" --ignore $(LLAVA_TESTS)
	@$(MAKE) --no-print-directory test-llava LLAVA_ARGS='-m "not full"'

test-full: $(VENV)/.ready $(LLAVA_READY)
	@echo "== tests with the long matrices, $(JOBS) processes"
	@HYPOTHESIS_PROFILE=full $(BIN)/python -m pytest -n $(JOBS) --dist worksteal --ignore $(LLAVA_TESTS)
	@$(MAKE) --no-print-directory test-llava test-llava-accelerate test-vision

ifeq ($(LLAVA_READY),)
test-llava test-llava-accelerate:
	@echo "== tests on LLaVA's own training: not run, its pins need Python 3.11, got $$($(PYTHON) --version)"
else
test-llava: $(LLAVA_READY)
	@echo "== tests on LLaVA's own training, $(JOBS) processes"
	@$(LLAVA)/bin/python -m pytest $(LLAVA_TESTS) -n $(JOBS) --dist loadfile $(LLAVA_ARGS)

test-llava-accelerate: $(LLAVA_READY)
	@echo "== the steps' losses with accelerate 0.21.0"
	@PYTHONPATH=$(CURDIR)/$(LLAVA_ACCELERATE) $(LLAVA)/bin/python -c \
	  'import accelerate; assert accelerate.__version__ == "0.21.0", accelerate.__version__'
	@PYTHONPATH=$(CURDIR)/$(LLAVA_ACCELERATE) $(LLAVA)/bin/python -m pytest $(LLAVA_TESTS)/test_step_loss.py
endif

test-llava-next: $(LLAVA_NEXT)/.ready
	@test -n "$(NEXT)" || { echo "name a checkout of LLaVA-NeXT's repository: make test-llava-next NEXT=..."; exit 1; }
	@echo "== tests on LLaVA-NeXT's own training"
	@COTBAL_TEST_LLAVA_NEXT=$(abspath $(NEXT)) $(LLAVA_NEXT)/bin/python -m pytest tests/integrations/llava_next

test-swift: $(SWIFT)/.ready
	@echo "== tests on ms-swift's own training"
	@$(SWIFT)/bin/python -m pytest tests/integrations/swift

test-vision: $(VISION)/.ready
	@echo "== tests on Hugging Face's models with torchvision, $(JOBS) processes"
	@$(VISION)/bin/python -m pytest tests/integrations/huggingface tests/integrations/peft -n $(JOBS) --dist worksteal \
	  -m "not full" $(VISION_ARGS)

test-llamafactory: $(FACTORY)/.ready
	@echo "== tests on LLaMA-Factory's own training, $(JOBS) processes"
	@$(FACTORY)/bin/python -m pytest tests/integrations/llamafactory -n $(JOBS) --dist worksteal

# Each torch comes with its own Triton. Not in make test: 5 GB on the disk for each.
.venv-torch-%/.ready: pyproject.toml setup.py
	@echo "== making .venv-torch-$* (torch $* as its users have it, with CUDA: once, a few minutes)"
	@test -x $(@D)/bin/python || $(PYTHON) -m venv $(@D)
	@$(@D)/bin/python -m pip install --quiet torch==$* numpy hypothesis pytest pytest-timeout pytest-xdist --editable .
	@touch $@

test-torch: $(TORCH:%=.venv-torch-%/.ready)
	@set -e; for version in $(TORCH); do \
	  echo "== torch $$version: every kernel compiled, the losses in plain torch"; \
	  python=.venv-torch-$$version/bin/python; \
	  for target in sm_80 sm_90; do $$python -m tests.csrc_triton.any_triton --spilling --target $$target; done; \
	  HYPOTHESIS_PROFILE=fast $$python -m pytest -n $(JOBS) -k "not triton and not kernel and not opcheck" -W ignore $(TORCH_TESTS); done

# The least versions of pyproject.toml; torch and transformers are $(VENV)'s. An old one may warn of a newer one beside it.
$(FLOORS)/.ready: tests/floors.py pyproject.toml $(VENV)/.ready
	@echo "== making $(FLOORS) (the oldest packages of the extras: once, a minute)"
	@$(call on-top-of,$(VENV),$(FLOORS))
	@$(BIN)/python -m tests.floors > $(FLOORS)/requirements.txt
	@# A newer pandas, which one test reads tables with, does not import with this numpy.
	@$(FLOORS)/bin/python -m pip install --quiet --requirement $(FLOORS)/requirements.txt "pandas<3"
	@touch $@

test-floors: $(FLOORS)/.ready
	@echo "== the oldest packages of the extras, $(JOBS) processes"
	@$(FLOORS)/bin/python -m pytest $(FLOORS_TESTS) -n $(JOBS) --dist worksteal -m "not full" -W ignore

test-breakage: $(VENV)/.ready
	@echo "== the loss broken on purpose: which tests notice"
	@$(BIN)/python -m tests.breakage

test-gpu: $(VENV)/.ready
	@echo "== the kernels on a GPU"
	@$(BIN)/python -m tests.on_gpu

lint: $(VENV)/.ready
	@echo "== ruff, mypy, every test imports"
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy
	@$(BIN)/python -m pytest --collect-only -qq -m "" > $(VENV)/collected 2>&1 || { tail -20 $(VENV)/collected; exit 1; }

format: $(VENV)/.ready
	@$(BIN)/ruff check --fix . && $(BIN)/ruff format .

bench: $(VENV)/.ready
	@echo "== benchmarks without a GPU, $(THREADS) threads"
	@bin=$$(test -e $(RIVALS)/.ready && echo $(RIVALS)/bin || echo $(BIN)); \
	  FLASH_ATTN_CROSS_ENTROPY=$$(test -e $(FLASH_FILE) && echo $(FLASH_FILE)) OMP_NUM_THREADS=$(THREADS) \
	  $$bin/python -m pytest benchmarks -s -p no:xdist -W default --timeout=0 --benchmark-columns=min,median,max

bench-rivals: $(RIVALS)/.ready

# Without their dependencies: their pins would bring another torch. flash-attn gives one file, which needs no build.
$(RIVALS)/.ready: benchmarks/requirements-rivals.txt constraints.txt pyproject.toml
	@echo "== making $(RIVALS) (the rivals: once, a few minutes)"
	@test -x $(RIVALS)/bin/python || $(PYTHON) -m venv $(RIVALS)
	@$(RIVALS)/bin/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]" \
	  einops==0.8.2 psutil ninja
	@$(RIVALS)/bin/python -m pip install --quiet --no-deps --requirement benchmarks/requirements-rivals.txt
	@FLASH_ATTENTION_SKIP_CUDA_BUILD=TRUE $(RIVALS)/bin/python -m pip download --quiet --no-deps \
	  --no-build-isolation --no-binary :all: --dest $(RIVALS)/dl flash-attn==2.8.3
	@tar -xzf $(RIVALS)/dl/flash_attn-*.tar.gz -C $(RIVALS) --wildcards --strip-components=4 \
	  '*/flash_attn/ops/triton/cross_entropy.py'
	@touch $@

clean:
	rm -rf $(VENV) $(RIVALS) $(LLAVA) $(LLAVA_NEXT) $(FACTORY) $(SWIFT) $(VISION) $(FLOORS) .venv-torch-* build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
