# Everything runs in a virtual environment of its own; nothing has to be installed by hand but Python 3.11+ and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# the CPU build of torch: a bare `torch` would bring gigabytes of CUDA on Linux. On a GPU machine: make demo TORCH=torch
TORCH ?= torch==2.13.0
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu

.PHONY: demo test lint font train-default evaluate test-kills test-hostile benchmark experiments blip3o-study clean

demo: $(VENV)/ready
	$(BIN)/diptych demo -o demo
	@echo "The command is $(BIN)/diptych: try $(BIN)/diptych do 'two cats above a red heart', or activate $(BIN)/activate first"

test: $(VENV)/ready-dev font lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

lint: $(VENV)/ready-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy
	@! $(BIN)/python -c "import torchvision" 2>/dev/null || (echo "torchvision is installed: it breaks a CPU torch" && false)

# The emoji font, through the system's package manager where it may; tests that need it are skipped with that reason elsewhere
font:
	@fc-list 2>/dev/null | grep -qi "color.*emoji" || test -f /usr/share/fonts/truetype/noto/NotoColorEmoji.ttf || \
	(if command -v apt-get >/dev/null; then sh scripts/install_font.sh; else \
	echo "no colour emoji font found and no apt-get to bring one: tests that need it are skipped"; fi)

# The shipped model: about three hours on two cores. A run that was stopped goes on. glibc's allocator doubles the time of a step
# (docs/results/emoji.md), so jemalloc is used where it is installed (Debian: libjemalloc2)
train-default: $(VENV)/ready font
	LD_PRELOAD=$(firstword $(wildcard /usr/lib/*/libjemalloc.so.2)) $(BIN)/diptych train emoji -o runs/emoji
	$(BIN)/diptych export runs/emoji -o runs/emoji/model

# 30 kills at random moments, of trainings and of a curation; make test has a few
test-kills: $(VENV)/ready-dev font
	DIPTYCH_KILLS=30 $(BIN)/python -m pytest tests/integration/test_training_runs.py tests/integration/test_sana_runs.py -k kill
	$(BIN)/python benchmarks/curation_kills.py runs/curation-kills

# Every hostile command and 10,000 fuzzed examples of each kind of file; make test has 60 and 200. A failure is repeated with its seed
test-hostile: $(VENV)/ready-dev font
	@seed=$${SEED:-$$(date +%s)}; echo "seed of the fuzzing: $$seed (SEED=$$seed make test-hostile repeats it)"; \
	DIPTYCH_HOSTILE=1 $(BIN)/python -m pytest tests/hostile -n 2 --dist worksteal --hypothesis-seed $$seed

benchmark: $(VENV)/ready-dev
	$(BIN)/python benchmarks/prefix_cache.py
	for run in draw "draw --side 32 --pairs 2" "draw --dtype bfloat16 --compile" "draw --dtype bfloat16 --side 32" error train; do \
	$(BIN)/python benchmarks/linear_dit.py $$run || exit 1; done

# Growth, pruning, optimisers, best of N, one mix or captions alone: about five hours on two cores, each goes on where it was stopped;
# results in docs/results
experiments: $(VENV)/ready-dev font
	$(BIN)/python benchmarks/optimisers.py step
	$(BIN)/python benchmarks/growth.py runs/growth
	$(BIN)/python benchmarks/pruning.py runs/pruning
	$(BIN)/python benchmarks/optimisers.py train runs/optimisers
	$(BIN)/diptych evaluate default --best-of 64 --prompts 12 -o runs/best-of
	$(BIN)/python benchmarks/joint.py runs/joint

# BLIP3-o's study in the small world: rows, bridges, joint, tuning; 27 runs of 2 to 6 minutes on one core, goes on where it was stopped;
# results in docs/results/blip3o.md
blip3o-study: $(VENV)/ready-dev font
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/blip3o_study.py runs/blip3o-study

evaluate: $(VENV)/ready font
	$(BIN)/diptych evaluate default -o evaluation

$(VENV)/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python scripts/install_torch.py "$(TORCH)" "$(TORCH_INDEX)"
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

$(VENV)/ready-dev: $(VENV)/ready
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) demo evaluation build *.egg-info
