# make demo: install, build, and let the shipped model write. make test: all tests.
# `make program` builds lorax alone, `make build` its tests and benchmarks too.
.PHONY: build program configure demo test bench format lint fuzz clean

BUILD := build/release
# Compiling takes up to 1 GB a file.
JOBS ?= $(shell nproc)

build: configure
	@cmake --build --preset release -j $(JOBS)

program: configure
	@cmake --build --preset release -j $(JOBS) --target lorax

configure:
	@tools/setup
	@cmake --preset release > /dev/null

demo: program
	@tools/demo $(BUILD)/lorax

test: build
	@ctest --preset release -j $(JOBS)

bench: program
	@$(BUILD)/lorax bench --shape gemma2-2b --dtype bfloat16 --prompt 512 --generate 32 --batch 1,16

format:
	@tools/setup --lint
	@git ls-files '*.h' '*.cc' '*.cu' '*.cuh' | xargs clang-format -i

lint:
	@tools/setup --lint
	@tools/lint

# Each fuzz target for FUZZ_SECONDS.
FUZZ_SECONDS ?= 20
fuzz:
	@tools/setup --lint
	@tools/fuzz $(FUZZ_SECONDS)

clean:
	rm -rf build
