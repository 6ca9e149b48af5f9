# The commands people type; the work is in meson and in the scripts named here.
BUILD ?= build
BUILD_ASAN ?= build-asan
NODE ?= $(BUILD)/maroon-node
GATEWAY ?= $(BUILD)/maroon-gateway
CTL ?= $(BUILD)/controlplane/ctl/maroonctl
SIM ?= $(BUILD)/tests/sim/sim
SEEDS ?= 10000
SEED_BASE ?= 1
ROUNDS ?= 50
PACKAGE_DIR ?= build-package
MODEL ?= all

# Given on the command line (make run-local PORT=3001) these reach the programs through the environment.
export BUILD BUILD_ASAN NODE GATEWAY CTL

.PHONY: help deps deps-test deps-compose build build-test build-mn demo run-local run-gateway cluster stop-cluster \
  run-compose stop-compose compose-logs test-compose package test-package test sim sim-mutants model soak bench bench-check \
  docs format tidy clean

help: ## lists these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo
	@echo "  make run-local PORT=3000 CONSENSUS_NODES=1"
	@echo "  make run-gateway KEY_RANGE=1 NODE_URLS=/ip4/127.0.0.1/udp/3000 GATEWAY_PORT=5000"
	@echo "  ARGS='--key value' is handed to the program; ARGS=--help lists every key"

deps: ## installs missing packages (asks sudo only if some are missing)
	@sh deploy/install-deps.sh run

deps-test:
	@sh deploy/install-deps.sh test

$(BUILD)/build.ninja:
	@meson setup $(BUILD)

build: deps $(BUILD)/build.ninja ## builds all programs
	@ninja -C $(BUILD) --quiet

build-test: deps-test $(BUILD)/build.ninja
	@ninja -C $(BUILD) --quiet

demo: build ## node and gateway here, some calls with their answers; Ctrl-C ends it
	@exec bash deploy/demo.sh

run-local: build ## one node: PORT, CONSENSUS_NODES
	@exec $(NODE) $(ARGS)

run-gateway: build ## a gateway: KEY_RANGE, NODE_URLS, GATEWAY_PORT
	@exec $(GATEWAY) $(ARGS)

cluster: build-test ## three nodes, gateway and etcd in network namespaces (root), left running
	@python3 tests/cluster/play.py start

stop-cluster: ## ends what `make cluster` left running
	@python3 tests/cluster/play.py stop

deps-compose:
	@sh deploy/install-deps.sh compose

build-mn: deps-compose ## images of docker-compose.yml (settings in .env)
	@DOCKER_HOST=$${DOCKER_HOST:-$$(sh deploy/docker/daemon.sh host)} sh deploy/docker/build.sh

run-compose: build-mn ## three nodes, three etcd, two gateways, S3 store, Prometheus in containers; FABRIC=vhost|memif
	@sh deploy/docker/compose.sh up

stop-compose: ## ends them; their volumes stay (sh deploy/docker/compose.sh clean takes them too)
	@sh deploy/docker/compose.sh down

compose-logs: ## what the containers say
	@sh deploy/docker/compose.sh logs

test-compose: deps-compose ## the compose profile from nothing to nothing, with drills (root); takes minutes
	@bash deploy/docker/test.sh

test: deps-test ## all tests, as CI runs them
	@sh tests/run.sh

package: ## Debian packages, into PACKAGE_DIR
	@sh deploy/install-deps.sh package
	@bash deploy/package.sh build $(PACKAGE_DIR)

test-package: ## builds them, installs them in a clean root, and asks a node there (root, network); leaves nothing
	@sh deploy/install-deps.sh package
	@bash deploy/package.sh test

sim: build-test ## longer simulation: SEEDS, SEED_BASE; SEED=n replays one with a trace
	@if [ -n "$(SEED)" ]; then exec $(SIM) --seed $(SEED) --trace; \
	 else exec nice $(SIM) --seeds $(SEEDS) --seed-base $(SEED_BASE) --mixed; fi

sim-mutants: build-test ## every planted bug is caught, a line each
	@sh tests/sim/mutants.sh

model: ## the exhaustive model of the protocol's core; 12 to 20 minutes, 6 GB
	@sh tests/model/run.sh $(MODEL) $(abspath $(BUILD))/model

soak: build-test ## the scenarios at the sizes the issues state: ROUNDS (root); takes long
	@sh tests/soak.sh $(ROUNDS)

bench: build-test ## measures; writes perf/out/
	@sh perf/run.sh

bench-check: build-test ## the instruction budget
	@sh perf/check.sh

docs: build-test ## docs/configuration.md from config/config_keys.def
	@$(BUILD)/config/config-docs > docs/configuration.md

format: ## clang-format over all our C
	@git ls-files '*.c' '*.h' | xargs clang-format -i

tidy: build-test ## clang-tidy over all our C (without the flags that only gcc knows)
	@mkdir -p $(BUILD)/tidy
	@sed -E 's/ -(mmem(set|cpy)-strategy=[^ ]*|Wno-maybe-uninitialized)//g' $(BUILD)/compile_commands.json >$(BUILD)/tidy/compile_commands.json
	@git ls-files '*.c' | grep -v fuzz | xargs clang-tidy -p $(BUILD)/tidy --quiet

clean: ## removes the build directories
	@rm -rf $(BUILD) $(BUILD_ASAN)
