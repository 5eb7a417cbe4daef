# Commands of the project: `just` lists them. Each runs in the environment that `just install` makes.

python := ".venv/bin/python"

_default:
    @just --list

# Make .venv and install clipcls with everything that tests and linters need.
install:
    python3 -m venv .venv
    {{ python }} -m pip install -q -e ".[dev]"

# Run the tests; arguments go to pytest (just test tests/embeddings -x).
test *arguments:
    {{ python }} -m pytest {{ arguments }}

# Run all tests, also those that take long.
test-all *arguments:
    {{ python }} -m pytest -n auto -m '' {{ arguments }}

# Check format, lint, spelling, prose, types and the direction of imports.
lint:
    .venv/bin/ruff format --check .
    .venv/bin/ruff check .
    .venv/bin/codespell
    {{ python }} tests/test_prose.py
    .venv/bin/mypy
    .venv/bin/lint-imports

# Write the command line reference from --help and build the site into site/.
docs:
    {{ python }} tests/test_docs.py
    NO_MKDOCS_2_WARNING=1 {{ python }} -m mkdocs build --strict

# Measure one photo, a folder and new labels against other programs.
bench *arguments:
    {{ python }} benchmarks/run_all.py {{ arguments }}
