# Front door. `make help` explains every target.
.DEFAULT_GOAL := build
.PHONY: help build demo test

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14
build: ## build/mllama, installing what is missing
	cmake --preset cpu && cmake --build --preset cpu
