.PHONY: help run test deny

help:
	@echo 'make run    builds what is missing and starts the server; ARGS="--listen 0.0.0.0:8080" passes options on'
	@echo 'make test   formatting, clippy and every test'
	@echo 'make deny   licences, bans, sources and advisories of the dependencies'

run:
	cargo run --release --bin uproar -- $(ARGS)

# One build of everything for all tests: with all features the simulator has its mutations, and the store's suite its
# PostgreSQL and its store in memory. Doc tests are among them.
test:
	scripts/test-postgres
	cargo fmt --all -- --check
	cargo clippy --locked --workspace --all-targets --all-features -- -D warnings
	cargo test --locked --workspace --all-features

deny:
	scripts/deny
