# hotframe: `make profile` profiles this host for 30 seconds, `make test` runs all tests.

GO   ?= go
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)
# One fuzz target's running time under `make fuzz`.
FUZZTIME ?= 30s

export CGO_ENABLED ?= 0

.PHONY: all build generate test test-root deps fuzz bench lint profile clean

all: build

build:
	$(GO) build -trimpath -o hotframe ./cmd/hotframe

# Samples every stack on this host for 30 seconds.
profile: build
	$(SUDO) ./hotframe record --duration 30s --output hotframe.svg --output hotframe.pb.gz --output hotframe.folded

# Compiles the BPF C; the result is committed. Needs clang-19 and llvm-19.
generate:
	$(GO) generate ./...

# Installs what the tests run (compilers, perf, a browser) where that is possible.
deps:
	@testdata/install-deps

test: deps
	$(GO) vet ./...
	$(GO) test -timeout 10m ./...

# The same with the tests that need root, for those who ran `make test` as a user.
test-root: deps
	$(GO) test -timeout 10m -exec sudo ./...

# Every fuzz target for FUZZTIME each.
fuzz:
	@$(GO) list -f '{{.Dir}}' ./... | while read -r dir; do \
		grep -ho '^func Fuzz[A-Za-z0-9_]*' "$$dir"/*_test.go 2>/dev/null | sed 's/^func //' | while read -r target; do \
			echo "== $$dir $$target"; \
			(cd "$$dir" && $(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 1s .) || exit 1; \
		done || exit 1; \
	done

# Budgets beside perf, in one run: a table, and bench.json.
bench: build deps
	$(SUDO) $(GO) run ./internal/bench -hotframe ./hotframe -json bench.json

lint:
	@test -z "$$(gofmt -l .)" || { gofmt -l .; echo "run gofmt -w on these"; exit 1; }
	$(GO) vet ./...
	GOARCH=arm64 $(GO) vet ./...
	$(GO) tool staticcheck ./...
	@if command -v clang-format-19 >/dev/null; then clang-format-19 --dry-run -Werror bpf/*.c bpf/*.h; else echo "clang-format-19 not found: BPF C not checked"; fi

clean:
	rm -f hotframe hotframe.svg hotframe.pb.gz hotframe.folded bench.json
