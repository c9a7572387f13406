# Front door: `make help` explains every target; CMake does the work (CMakePresets.json).
.DEFAULT_GOAL := build
.PHONY: help setup build cuda sm70 resources gpu-test gpu-bench gpu-bundle demo test asan race mutants fuzz slow fmt check eval golden bench install
export PATH := $(CURDIR)/.venv/bin:$(PATH)
N ?= 500
SEED ?= 7
PREFIX ?= /usr/local
FUZZ_SECONDS ?= 3600

help: ## this list
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12
setup: ## install the packages that are missing (apt; sudo when not root)
	@scripts/setup.sh build
build: setup ## build/mllama; for this machine's GPUs too, where nvcc is
	@scripts/build.sh cpu
cuda: setup ## build-cuda/mllama, for every GPU architecture (needs nvcc)
	@scripts/build.sh cuda
demo: build ## read the shipped receipts with the embedded model: a table, and JSON lines
	@rm -f build/demo.jsonl
	@build/mllama extract models/samples --table -o build/demo.jsonl
	@echo && echo "The same as JSON lines: build/demo.jsonl   Your own: build/mllama extract FOLDER -o out.jsonl"
test: ## every test
	@scripts/setup.sh build test && scripts/test.sh cpu
sm70: ## compile every kernel for sm_70 (V100) with NVRTC 12.9; warnings and spills are errors
	@scripts/setup.sh nvrtc && scripts/nvrtc.py 70
resources: ## what every kernel takes of an SM, and what follows: bench/results/{resources,model_card}.md
	@scripts/setup.sh nvrtc && scripts/resources.py && bench/model_card.py
asan: ## every test under AddressSanitizer and UndefinedBehaviorSanitizer
	@scripts/setup.sh build test && scripts/test.sh asan
race: ## the kernels' barriers under ThreadSanitizer, on the CPU
	@scripts/setup.sh build test && scripts/test.sh race
mutants: ## break each barrier, bounds guard and copy wait of the kernels: the tests must notice
	@tests/cuda_on_cpu/mutants.py
fuzz: ## every fuzz target for FUZZ_SECONDS each
	@scripts/setup.sh build fuzz
	@scripts/fuzz.sh $(FUZZ_SECONDS)
slow: fuzz ## what CI has no time for: long fuzzing, coverage
	@scripts/slow.sh
gpu-test: ## check and measure the kernels on this machine's GPU: bench/results/gpu.json
	@scripts/gpu_bundle.sh native && build-bundle/mllama-gpu/gpu-test -o bench/results/gpu.json
gpu-bench: ## measure only
	@scripts/gpu_bundle.sh native && build-bundle/mllama-gpu/gpu-test -o build-bundle/bench.json bench
gpu-bundle: ## build-bundle/mllama-gpu: gpu-test for any machine with a GPU from sm_70 up
	@scripts/setup.sh build test nvrtc && scripts/gpu_bundle.sh
fmt: ## clang-format over every C file
	@git ls-files '*.c' '*.h' '*.cu' '*.cuh' '*.cpp' | xargs clang-format -i
check: ## formatting and the rules that protect the architecture
	@tests/style/check.sh
eval: build ## share of exact fields on N=500 receipts rendered with SEED=7
	@scripts/setup.sh eval
	@scripts/eval.sh $(N) $(SEED)
golden: ## rebuild the golden files (needs torch and transformers, see tests/golden)
	@for script in tests/golden/make*.py; do python3 $$script || exit 1; done
bench: build ## opening a checkpoint of the 11B's shapes, speed of the embedded model (docs/SPEED.md: all)
	@cmake --build --preset cpu --target make_checkpoint load_bench -- --quiet
	@bench/load.sh build
	@build/mllama bench model
install: build ## the command, libmllama, header, model, man page under PREFIX=/usr/local
	@cmake --install build --prefix $(PREFIX)
