# The commands people use. `make` alone lists them. PYTHON chooses the interpreter, VENV the environment's folder.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
export PATH := $(abspath $(BIN)):$(PATH)

BENCH ?= update rollout train anatomy frames evaluation
KEEP = $(if $(SAVE),--save $(SAVE))

.PHONY: help install grpo claims claims-reference test coverage mutants lint torture bench export readme readme-text docs lab
help:  ## list the commands
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 18

$(VENV)/.installed: settings.ini setup.py pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --progress-bar off -e '.[dev]'
	touch $@

install: $(VENV)/.installed  ## a virtual environment with everything, once

grpo: install  ## watch a video model learn when: toy world, cold start, GRPO, held-out scores
	vtg-r1 run nbs/05_grpo.ipynb -f configs/toy.yaml

claims: install  ## the paper's five claims as experiments, with seeds and verdicts; QUICK=1 for the short form
	vtg-r1 run nbs/06_ablations.ipynb -p processes $(or $(PROCESSES),2) -p quick $(if $(QUICK),true,false)

claims-reference: install  ## keep the last full run of the claims in outputs/reference/claims
	$(BIN)/python -c "from vtg_r1.ablations import keep_reference, latest; print(keep_reference(latest()))"

test: install  ## every lesson cell of the notebooks, then the contracts in tests/
	nbdev_test --n_workers 2 --do_print
	pytest -q -n 2 --dist loadfile

coverage: install  ## which lines of vtg_r1 `make test` runs, kernels and commands included; tests that measure speed or memory may fail under it
	rm -f .coverage .coverage.*
	COVERAGE_FILE=$(CURDIR)/.coverage COVERAGE_PROCESS_START=$(CURDIR)/pyproject.toml $(MAKE) -i -o install test
	coverage combine -q
	coverage report

mutants: install  ## change the exact core at one place at a time: do its tests notice? about three minutes
	rm -rf mutants
	OMP_NUM_THREADS=1 timeout 3600 mutmut run --max-children 2
	python .ci/mutants

lint: install  ## ruff's rules and form of notebooks, tests and benchmarks, and the types of the record and the exact core
	ruff check
	ruff format --check nbs tests benchmarks docs setup.py
	mypy

torture: install  ## hostile videos, annotation files and answers: nothing may crash, hang or get lost; about six minutes
	PYTHONPATH=tests python -m torture

bench: install  ## what seeing every video once saves, beside stock; one of them with e.g. BENCH=update; SAVE=folder keeps the numbers
	$(if $(filter-out update rollout train anatomy grid frames evaluation,$(BENCH)),$(error BENCH=$(BENCH): there are update, rollout, train, anatomy, grid, frames, evaluation))
	$(if $(filter update rollout train anatomy grid,$(BENCH)),python benchmarks/see_once.py $(filter update rollout train anatomy grid,$(BENCH)) $(KEEP))
	$(if $(filter frames evaluation,$(BENCH)),python benchmarks/see_once_eval.py $(filter frames evaluation,$(BENCH)) $(KEEP))

export: install  ## notebooks to vtg_r1/, stripped of what does not belong in git
	nbdev_export
	nbdev_clean

README ?= README.md
readme: install  ## nbs/index.ipynb, its tables made anew, to README.md
	jupyter nbconvert --log-level WARN --execute --inplace nbs/index.ipynb
	nbdev_clean --fname nbs/index.ipynb
	$(MAKE) -s -o install readme-text

readme-text: install
	jupyter nbconvert --log-level WARN --no-input --to markdown --stdout nbs/index.ipynb | sed -E 's#\]\(([a-z0-9_/]+\.ipynb)\)#](nbs/\1)#g; s#\]\(\.\./#](#g' | cat -s > $(README).part
	mv $(README).part $(README)

docs: install  ## the notebooks as a site that needs no server and no network: _docs/html/index.html
	sphinx-build -q -E -W --keep-going -b html -d _docs/doctrees -c docs . _docs/html

lab: install  ## JupyterLab on the index
	jupyter lab --ServerApp.root_dir=$(CURDIR) --LabApp.default_url=/lab/tree/nbs/index.ipynb $(if $(filter 0,$(shell id -u)),--allow-root)
