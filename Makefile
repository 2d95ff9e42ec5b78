.PHONY: help run web test test-all bench bench-all bench-build deny

help:
	@echo 'make run    builds what is missing and starts the server; ARGS="--listen 0.0.0.0:8080" passes options on'
	@echo 'make web    builds the page of the web client, as make run does where there is Node.js with npm'
	@echo 'make test   formatting, clippy and every test'
	@echo 'make test-all  the same, and the end-to-end tests with each driver and number of shards on each database'
	@echo 'make bench  measures what has to be reached, beside other servers, in 16 minutes; the report goes to bench-results'
	@echo 'make bench-all  the same, and how costs grow with rooms, members and connections, in an hour'
	@echo 'make deny   licences, bans, sources and advisories of the dependencies'

# The page first: the build of the server takes in what is in web/dist, and does without where that is missing.
run:
	@scripts/page
	cargo run --release --bin uproar -- $(ARGS)

web:
	@scripts/page --required

# One build of everything for all tests: with all features the simulator has its mutations, and the store's suite its
# PostgreSQL and its store in memory. Doc tests are among them. The tests in the browser are last, with the server that
# those before have built.
test:
	scripts/test-postgres
	scripts/test-sdks
	scripts/test-browser
	scripts/page --required
	cargo fmt --all -- --check
	cargo clippy --locked --workspace --all-targets --all-features -- -D warnings
	cd web && npm run check && npm test
	cargo test --locked --workspace --all-features
	target=$$(cd "$${CARGO_TARGET_DIR:-target}" && pwd) && cd web && UPROAR_BINARY="$$target/debug/uproar" \
		CHROMIUM="$$(command -v "$${CHROMIUM:-chromium}" || echo /usr/bin/chromium)" npm run e2e

# `make test` covers databases, drivers and shards pairwise; this is all eight. The tests with SDKs take turns with the
# databases, so they run once more for each.
test-all: test
	for driver in uring epoll; do for shards in 1 2; do \
		echo "driver $$driver, shards $$shards"; \
		UPROAR_TEST_DRIVER=$$driver UPROAR_TEST_SHARDS=$$shards \
			cargo test --locked --workspace --all-features --test end_to_end -- --skip sdk:: || exit 1; \
		for database in sqlite postgres; do \
			UPROAR_TEST_DRIVER=$$driver UPROAR_TEST_SHARDS=$$shards UPROAR_TEST_DATABASE=$$database \
				cargo test --locked --workspace --all-features --test end_to_end sdk:: || exit 1; \
		done; \
	done; done

bench: bench-build
	target/release/uproar-bench bars $(ARGS)

bench-all: bench-build
	target/release/uproar-bench all $(ARGS)

bench-build:
	scripts/test-postgres
	cargo build --locked --release --bin uproar --bin uproar-bench --workspace
	bench-client/peers/build

deny:
	scripts/deny
