# make demo | test | soak | bench | lint | install-test | jetson-check | clean; each builds .venv first, which takes minutes once and no time after.

PIP := .venv/bin/python -m pip install --quiet --constraint constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help demo test soak bench lint install-test jetson-check clean

help:
	@echo "make demo           a trained policy picks and places in MuJoCo through two ROS 2 processes; leaves out/demo/"
	@echo "make test           lint, types and the whole test suite"
	@echo "make soak           an hour of simulated flight with a fault every few seconds"
	@echo "make bench          all benchmarks, half an hour on two cores; rewrites docs/bench/ and docs/performance.md"
	@echo "make lint           lint and types alone"
	@echo "make install-test   install the committed tree with pip and with colcon in clean folders"
	@echo "make jetson-check   what can be known of a Jetson without one: wheels, sm_87, SDOT"
	@echo "make clean          remove .venv, out/ and build products"

demo: .venv/installed
	.venv/bin/vlaq demo

# ray is a quarter of a gigabyte that `vlaq study --ray` alone uses: it comes with the tests.
test: lint
	$(PIP) ray
	OMP_NUM_THREADS=1 .venv/bin/python -m pytest --numprocesses 2 --dist loadfile

soak: .venv/installed
	.venv/bin/python test/soak.py

# torchao is only compared with; it stays out of .venv, for transformers would import it at every start.
bench: .venv/installed
	$(PIP) --upgrade --no-deps --target out/bench/torchao torchao
	PYTHONPATH=out/bench/torchao .venv/bin/vlaq bench --page docs/performance.md
	.venv/bin/vlaq bench --node --page docs/performance.md

lint: .venv/installed
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy

install-test: .venv/installed
	test/install_test.sh .venv/bin/python

jetson-check: .venv/installed
	test/jetson_check.sh .venv/bin/python

clean:
	rm -rf .venv out build dist install log *.egg-info

# torch comes first and from here, because the package does not name it: a robot keeps its own.
.venv/installed: setup.py constraints.txt
	@python=$$(for name in python3.11 python3.12 python3 python; do \
	    "$$name" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' 2>/dev/null \
	    && echo "$$name" && break; done) \
	    || { echo "make: no Python 3.11 or 3.12 with venv found on PATH; install python3.11 and python3.11-venv" >&2; exit 1; }; \
	echo "Setting up .venv with $$python: a few minutes, once"; \
	"$$python" -m venv .venv
	$(PIP) torch
	$(PIP) --editable '.[ros,sim,test]'
	@touch $@
