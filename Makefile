# Darkroom's commands. `make` alone lists them. Everything is installed into .venv; nothing else on the machine is touched.
.DEFAULT_GOAL := help
.PHONY: help install run test clean

DARKROOM_CONFIG ?= configs/local.yaml
FIRST_PICTURE ?= a red apple

help: ## List the commands
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: ## Make .venv and install the pinned dependencies
	@scripts/install

# `exec`: Ctrl-C reaches the supervisor itself, which then ends all that it started.
run: install ## Install, start Darkroom, make a first picture, serve until Ctrl-C
	@exec env DARKROOM_CONFIG="$(DARKROOM_CONFIG)" .venv/bin/darkroom serve --first-picture "$(FIRST_PICTURE)"

test: ## Install what tests need, then format, lint, types, import rules and tests
	@scripts/install --test
	@exec scripts/check

clean: ## Remove .venv and caches; data in .darkroom stays
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache *.egg-info
