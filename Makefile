# Everything that a developer or CI runs. Nothing is needed beforehand but Go, make, git
# and bash: the tools below are built into .bin/ when a target needs them.

BUF_VERSION                := v1.75.0
PROTOC_GEN_GO_VERSION      := v1.36.12
PROTOC_GEN_GO_GRPC_VERSION := v1.6.2
GOLANGCI_VERSION           := v2.15.0
GOTESTSUM_VERSION          := v1.13.0

# Each tool has a directory named after its version, so that a new version is built anew.
TOOLS    := $(CURDIR)/.bin
BUF      := $(TOOLS)/buf-$(BUF_VERSION)/buf
GEN_GO   := $(TOOLS)/protoc-gen-go-$(PROTOC_GEN_GO_VERSION)/protoc-gen-go
GEN_GRPC := $(TOOLS)/protoc-gen-go-grpc-$(PROTOC_GEN_GO_GRPC_VERSION)/protoc-gen-go-grpc
GOLANGCI := $(TOOLS)/golangci-lint-$(GOLANGCI_VERSION)/golangci-lint
TESTSUM  := $(TOOLS)/gotestsum-$(GOTESTSUM_VERSION)/gotestsum

# How long `make fuzz` spends on each target.
T ?= 60s

# How long `make soak` kills, and how many operations it compares with the model: together
# some 15 minutes on two quiet cores.
D     ?= 6m
STEPS ?= 1000000

# Without a C compiler the result is the same: static programs, Go's own code throughout.
export CGO_ENABLED ?= 0

.DEFAULT_GOAL := help
.PHONY: help build build-pkcs11 test test-pkcs11 race lint gen gen-check vectors fuzz interop netns crash soak bench bench-plot bench-large bench-profile bench-check bench-witness bench-go cover demo check clean strace FORCE

help: ## list the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## /\1\t/' | expand -t 14

build: ## build the programs into bin/
	go build -trimpath -o bin/ ./cmd/keytraild ./cmd/keytrail ./cmd/keytrail-witness

build-pkcs11: ## the same with support for PKCS#11 tokens (needs a C compiler)
	CGO_ENABLED=1 go build -tags pkcs11 -trimpath -o bin/ ./cmd/keytraild ./cmd/keytrail ./cmd/keytrail-witness

test: strace $(if $(SUMMARY),$(TESTSUM)) ## run the tests; with SUMMARY=yes, say at the end which failed and were skipped
	$(if $(SUMMARY),$(TESTSUM) --format pkgname --,go test) -timeout 5m ./...

test-pkcs11: ## run those with a token of SoftHSM, installed if it is missing (Debian, root)
	@test -e /usr/lib/softhsm/libsofthsm2.so || { apt-get update -qq && apt-get install -qq -y softhsm2; }
	CGO_ENABLED=1 GOFLAGS="$$GOFLAGS -tags=pkcs11" go test -count=1 -timeout 5m -run PKCS11 ./storage/keystore ./cmd/keytrail ./cmd/keytrail-witness

race: ## run the tests with the race detector (needs a C compiler)
	CGO_ENABLED=1 go test -race -short -timeout 15m ./...

lint: $(GOLANGCI) $(BUF) ## check format and style of Go and protobuf code
	$(GOLANGCI) run
	cd proto && $(BUF) lint

gen: $(BUF) $(GEN_GO) $(GEN_GRPC) ## generate the protobuf code
	cd proto && PATH=$(dir $(GEN_GO)):$(dir $(GEN_GRPC)):$$PATH $(BUF) generate

gen-check: $(BUF) $(GEN_GO) $(GEN_GRPC) ## check that the generated code is current
	@rm -rf .cache/gen && mkdir -p .cache/gen/proto
	cd proto && PATH=$(dir $(GEN_GO)):$(dir $(GEN_GRPC)):$$PATH $(BUF) generate -o $(CURDIR)/.cache/gen/proto
	diff -r -x '*.proto' .cache/gen/proto/keytrail proto/keytrail

vectors: ## write the golden vectors and other golden files anew
	go test -count=1 -run 'Vectors|Golden' $$(grep -rl --include='*_test.go' 'flag.Bool("update"' . | xargs -n1 dirname | sort -u) -args -update

fuzz: ## run every fuzz target for T (60s) and stop at the first finding
	@grep -rHo --include='*_test.go' '^func Fuzz[A-Za-z0-9_]*' . | sed -E 's,^(.*)/[^/]*:func ,\1 ,' | sort -u | \
	while read -r dir name; do echo "== $$dir $$name"; \
	fuzz() { go test -run '^$$' -fuzz "^$$name\$$" -fuzztime $(T) "$$dir" </dev/null; }; \
	fuzz || { test -z "$$(git status --porcelain "$$dir/testdata/fuzz" 2>/dev/null)" && echo "again: Go's fuzzer ends with an error at times and has found nothing" && fuzz; } || exit 1; done

interop: ## try keytrail with others' logs, witnesses and verifiers (needs a C compiler)
	cd client/interop && go test -mod=mod -count=1 -timeout 15m ./...

netns: ## cut the log off from its witnesses, in network namespaces (needs root)
	@command -v ip >/dev/null || [ "$$(id -u)" != 0 ] || { apt-get update -qq && apt-get install -qq -y iproute2; }
	KEYTRAIL_NETNS=1 go test -count=1 -timeout 10m -v -run NetNS ./cmd/keytraild

# Tests of the order of writes and syncs, and of injected faults, trace the real programs; they
# skip where nobody may install it.
strace:
	@command -v strace >/dev/null || [ "$$(id -u)" != 0 ] || { apt-get update -qq && apt-get install -qq -y strace; } || true

crash: strace ## kills, power loss, full and failing disks, flipped bits: all suites, long
	KEYTRAIL_LONG=1 go test -p 3 -count=1 -timeout 60m -run 'Crash|Kill|Model|Power|Fail|Fault|Flip|Cut|Torn|Damage|NoRoom|Crowd|Slow|Half|NotRead|Limit|Flood|Quota|Two|Copied|Lock|Paused|Clock|Restore' ./storage/pebblestore ./cmd/keytraild ./log ./...

soak: ## kill log and witnesses under load for D (6m), compare STEPS (1000000) operations with a model
	KEYTRAIL_SOAK=$(D) go test -count=1 -timeout 24h -v -run 'CrashStorm' ./cmd/keytraild
	KEYTRAIL_STEPS=$(STEPS) go test -count=1 -timeout 24h -parallel 6 -v -run 'ModelService' ./cmd/keytraild

# What `make bench` and its sisters measure: rounds, seconds a cell, entries of the logs that
# are read and checked, and parts (ONLY=appends,receipts,syncs,where,log; all when empty).
ROUNDS  ?= 3
SECONDS ?= 2
ENTRIES ?= $(if $(filter bench-large,$(MAKECMDGOALS)),10000000,300000)
ONLY    ?=
# A file into which the tables are put, between the lines <!-- bench --> and <!-- end bench -->.
INTO    ?=
# What `make bench-profile` offers: calls, stream or batched.
LOAD    ?= batched

BENCH := .cache/bench/bench
BENCH_FLAGS = --rounds $(ROUNDS) --seconds $(SECONDS) --entries $(ENTRIES)

bench: $(BENCH) ## measure keytrail and its peers in turn (ROUNDS, SECONDS, ENTRIES, ONLY)
	$(BENCH) table $(BENCH_FLAGS) --only '$(ONLY)' --into '$(INTO)'

bench-plot: $(BENCH) ## draw throughput and latency by clients, batch size, keys and entries into .cache/bench/
	$(BENCH) plot $(BENCH_FLAGS) --into '$(INTO)' --mark bench-plot

bench-large: $(BENCH) ## fill, open, read and check a log of ENTRIES (10,000,000; some 12 GB in TMPDIR)
	$(BENCH) table $(BENCH_FLAGS) --only log --into '$(INTO)' --mark bench-large

bench-profile: $(BENCH) ## leave profiles of the server under a load (LOAD, SECONDS)
	$(BENCH) profile --seconds $(SECONDS) --load $(LOAD)

bench-check: ## vet and test the module that make bench is made of
	cd cmd/keytrail/bench && go vet -mod=mod ./... && go test -mod=mod -timeout 5m ./...

bench-witness: ## measure the witness, also beside litewitness (needs a C compiler)
	go test -run '^$$' -bench AddCheckpoint -count 3 ./witness
	cd client/interop && CGO_ENABLED=1 KEYTRAIL_BENCH=1 go test -mod=mod -count=1 -v -run Speed -timeout 10m ./...

# PostgreSQL is a peer where Debian's package is there or can be installed.
$(BENCH): build FORCE
	@ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || [ "$$(id -u)" != 0 ] || { apt-get update -qq && apt-get install -qq -y postgresql; } || true
	cd cmd/keytrail/bench && go build -mod=mod -o $(CURDIR)/$(BENCH) .
FORCE:

bench-go: ## run the benchmarks of the packages
	go test -run '^$$' -bench . -benchmem -timeout 60m ./...

cover: ## measure test coverage into .cache/cover.out
	@mkdir -p .cache
	go test -timeout 15m -coverpkg ./... -coverprofile .cache/cover.out ./...
	go tool cover -func .cache/cover.out | tail -n 1

demo: build ## the main job on a real audit log, told as a story
	PATH=$(CURDIR)/bin:$$PATH bash cmd/keytrail/demo/demo.sh

check: gen-check lint test ## what CI runs on a change

clean: ## remove everything that the targets made, tools included
	rm -rf bin .bin .cache

$(BUF):
	GOBIN=$(@D) go install github.com/bufbuild/buf/cmd/buf@$(BUF_VERSION)

$(TESTSUM):
	GOBIN=$(@D) go install gotest.tools/gotestsum@$(GOTESTSUM_VERSION)

$(GEN_GO):
	GOBIN=$(@D) go install google.golang.org/protobuf/cmd/protoc-gen-go@$(PROTOC_GEN_GO_VERSION)

$(GEN_GRPC):
	GOBIN=$(@D) go install google.golang.org/grpc/cmd/protoc-gen-go-grpc@$(PROTOC_GEN_GO_GRPC_VERSION)

$(GOLANGCI):
	GOBIN=$(@D) go install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI_VERSION)
