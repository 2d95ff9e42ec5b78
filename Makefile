.PHONY: help run web build install check doc test test-all chaos bench bench-all bench-build size deny autobahn dist \
	test-dist

help:
	@echo 'make run        builds what is missing and starts the server; ARGS="--listen 0.0.0.0:8080" passes options'
	@echo 'make web        builds the web client; make run does that too if Node.js and npm are installed'
	@echo 'make build      builds what is missing, in the release profile; make install PREFIX=/usr/local installs it'
	@echo 'make check      formatting, clippy, unit tests, 50 simulator seeds, documentation; needs only cargo'
	@echo 'make test       everything of make check, and all other tests; installs what they need on Debian'
	@echo 'make test-all   make test, and the end-to-end tests with each combination of driver, shards and database, and'
	@echo '                on two nodes'
	@echo 'make chaos      random faults on one server and on three nodes; nothing may be lost; SECONDS=600 KILLS=100'
	@echo 'make bench      measures the performance targets beside other servers, in 16 minutes; see bench-results'
	@echo 'make bench-all  make bench, and how costs grow with rooms, members and connections, in an hour'
	@echo 'make size       measures the memory and disk that a server needs, in less than 5 minutes'
	@echo 'make autobahn   the Autobahn testsuite against /echo on both drivers; CASES="1.* 2.10" selects some'
	@echo 'make dist       builds a release in dist: archive, Debian package, checksums; make test-dist tests it, as root'
	@echo 'make deny       checks the licences, sources and advisories of the dependencies'

# The page comes first: the server's build embeds web/dist, and does without it if it is missing.
run:
	@scripts/page
	cargo run --release --bin uproar -- $(ARGS)

build:
	@scripts/page
	cargo build --locked --release --bin uproar

# It does not build, so that root need not have cargo.
install: PREFIX = /usr/local
install:
	@scripts/install $(PREFIX)

web:
	@scripts/page --required

# All checks use one set of features, so that each crate is built once. The store's suite runs on SQLite and in memory.
CARGO_TEST = cargo test --locked --workspace --all-features

# Most tests wait for something most of the time.
export RUST_TEST_THREADS ?= $(shell echo $$((2 * $$(nproc))))

check:
	cargo fmt --all -- --check
	cargo clippy --locked --workspace --all-targets --all-features -- -D warnings
	$(CARGO_TEST) --lib --bins
	$(CARGO_TEST) --test suite -- --skip postgres
	SEEDS=50 $(CARGO_TEST) --test simulation -- the_contract_holds
	$(MAKE) doc

doc:
	RUSTDOCFLAGS='-D warnings' cargo doc --locked --workspace --all-features --no-deps

# All features are on: they give the simulator its mutations, and the store's suite PostgreSQL and the store in memory.
# The tests of deploy/ and of the browser come last: they use the server that the tests before them have built.
test:
	scripts/test-postgres
	scripts/test-nats
	scripts/test-systemd
	scripts/test-sdks
	scripts/test-browser
	scripts/test-deploy install
	scripts/page --required
	scripts/test-workflows
	cargo fmt --all -- --check
	cargo clippy --locked --workspace --all-targets --all-features -- -D warnings
	$(MAKE) doc
	cd web && npm run check && npm test
	$(CARGO_TEST)
	UPROAR_TEST_NODES=2 $(CARGO_TEST) --test end_to_end -- \
		api:: journey:: live:: members:: operator:: order:: plain:: retry:: tokens::
	scripts/test-deploy
	target=$$(cd "$${CARGO_TARGET_DIR:-target}" && pwd) && cd web && UPROAR_BINARY="$$target/debug/uproar" \
		CHROMIUM="$$(command -v "$${CHROMIUM:-chromium}" || echo /usr/bin/chromium)" \
		FIREFOX="$$(command -v "$${FIREFOX:-firefox-esr}" || echo /usr/bin/firefox-esr)" npm run e2e
	scripts/autobahn '2.*' '3.*' '4.*' '5.*' '7.*' || [ $$? -eq 3 ]
	SCHEME=wss scripts/autobahn '2.*' '3.*' '4.*' '5.*' '7.*' || [ $$? -eq 3 ]

# `make test` covers databases, drivers and numbers of shards pairwise; this runs all eight combinations. The SDK tests
# alternate between the databases, so they run once for each. Then everything that uses PostgreSQL runs on two nodes.
test-all: test
	for driver in uring epoll; do for shards in 1 2; do \
		echo "driver $$driver, shards $$shards"; \
		UPROAR_TEST_DRIVER=$$driver UPROAR_TEST_SHARDS=$$shards \
			$(CARGO_TEST) --test end_to_end -- --skip sdk:: || exit 1; \
		for database in sqlite postgres; do \
			UPROAR_TEST_DRIVER=$$driver UPROAR_TEST_SHARDS=$$shards UPROAR_TEST_DATABASE=$$database \
				$(CARGO_TEST) --test end_to_end sdk:: || exit 1; \
		done; \
	done; done
	UPROAR_TEST_NODES=2 $(CARGO_TEST) --test end_to_end -- \
		--skip cluster postgres members:: outage:: page:: port:: quick_start:: sdk:: security_log:: stop:: \
		upgrade::

# `make test` has a short round of it. CHAOS_SEED=… repeats the faults of an earlier run.
chaos: SECONDS = 600
chaos: KILLS = 100
chaos:
	scripts/test-postgres
	UPROAR_CHAOS_SECONDS=$(SECONDS) $(if $(CHAOS_SEED),UPROAR_CHAOS_SEED=$(CHAOS_SEED)) \
		$(CARGO_TEST) --test end_to_end chaos:: -- --nocapture
	UPROAR_CHAOS_KILLS=$(KILLS) UPROAR_CHAOS_ACKNOWLEDGED=100000 \
		$(if $(CHAOS_SEED),UPROAR_CHAOS_SEED=$(CHAOS_SEED)) \
		$(CARGO_TEST) --test end_to_end chaos_nodes:: -- --nocapture
	UPROAR_CHAOS_WEBHOOK_MESSAGES=100000 UPROAR_CHAOS_WEBHOOK_KILLS=50 \
		$(if $(CHAOS_SEED),UPROAR_CHAOS_SEED=$(CHAOS_SEED)) \
		$(CARGO_TEST) --test end_to_end webhooks_chaos:: -- --nocapture

bench: bench-build
	target/release/uproar-bench bars $(ARGS)

bench-all: bench-build
	target/release/uproar-bench all $(ARGS)

bench-build:
	scripts/test-postgres
	cargo build --locked --release --bin uproar --bin uproar-bench --workspace
	bench-client/peers/build

size:
	scripts/test-postgres
	cargo build --locked --release --bin uproar --bin uproar-bench --workspace
	target/release/uproar-bench size $(ARGS)

autobahn:
	cargo build --locked --workspace --all-features --bin uproar
	scripts/autobahn $(foreach case,$(CASES),'$(case)')

deny:
	scripts/deny

dist:
	scripts/dist

test-dist:
	scripts/test-dist
