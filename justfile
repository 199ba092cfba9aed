# The commands of enginebench. `just` lists them.

set positional-arguments := true

uv := "uv --quiet"

# list the commands
default:
    @just --list --unsorted

# benchmark engines side by side: just bench all
bench *ARGS:
    @{{ uv }} run enginebench run "$@"

# talk to a model through an engine, or several side by side: just chat --compare torch tinygrad
chat *ARGS:
    @{{ uv }} run enginebench chat "$@"

# which engines there are, and whether they can run here
engines *ARGS:
    @{{ uv }} run enginebench engines "$@"

# one engine alone: just engine torch bench --model tiny
engine NAME *ARGS:
    @shift; UV_PROJECT_ENVIRONMENT=.envs/engine-{{ NAME }} {{ uv }} run --no-default-groups --package engine-{{ NAME }} engine-{{ NAME }} "$@"

# install engine environments ahead of a run
sync *ENGINES:
    @{{ uv }} run enginebench sync "$@"

# write the pins of every engine
pins:
    {{ uv }} run enginebench pins

# add an engine from the template
new-engine NAME:
    {{ uv }} run enginebench new-engine {{ NAME }}

# all tests: the harness, then each engine in its own environment
test *ARGS:
    {{ uv }} run python tests/run.py "$@"

# the tests of one engine, in its own environment
test-engine NAME *ARGS:
    @shift; {{ uv }} run python tests/run.py --engine {{ NAME }} "$@"

# the protocol's conformance suite against an engine
conform NAME *ARGS:
    @{{ uv }} run enginebench conform "$@"

# a Chromium without root, for the tests that look at the report
browser:
    {{ uv }} run --group browser python orchestrator/tests/browser/install.py

# measure this benchmark itself: writes docs/selfbench.md
selfbench *ARGS:
    {{ uv }} run python tests/selfbench/run.py "$@"

# engines that go wrong in every way and every state, three times over: four minutes
torture *ARGS:
    {{ uv }} run python tests/faults/torture.py "$@"

# engine processes that end in nine ways, and what watching over them costs
torture-life *ARGS:
    {{ uv }} run python tests/torture/life.py "$@"

# a million damaged model files against the validator, and what it accepts against llama.cpp and safetensors
torture-files *ARGS:
    {{ uv }} run python tests/torture/files.py "$@"

# a coverage-guided fuzzer against both ends of the protocol
torture-wire *ARGS:
    {{ uv }} run --group fuzz python tests/torture/fuzz_wire.py "$@"

# names, paths and chat templates of strangers, thrown by dice
torture-strangers *ARGS:
    {{ uv }} run python tests/torture/strangers.py "$@"

# the orchestrator killed in every state, 200 times: is anything left of it after five seconds?
torture-orphans *ARGS:
    {{ uv }} run python tests/faults/orphans.py "$@"

# a thousand launches in one process: do descriptors, threads, zombies or memory grow?
torture-launches *ARGS:
    {{ uv }} run python tests/faults/launches.py "$@"

# mixed faults for a set time: just soak --minutes 60 --seed 1
soak *ARGS:
    {{ uv }} run python tests/faults/soak.py "$@"

# a disk that fails or loses its power in every operation, and runs that are killed: nothing measured is lost
torture-results *ARGS:
    {{ uv }} run python tests/torture/results.py "$@"

# how often the suite itself is wrong: false verdicts, what is found, what measuring costs
selftest *ARGS:
    @{{ uv }} run enginebench selftest "$@"

# the documentation as a site, in docs/site/; a broken link is an error
docs:
    @{{ uv }} run python -m sphinx -q -W --keep-going -c docs -b html . docs/site
    @echo docs/site/docs/index.html

# lint, types, architecture, pins, host names
check:
    {{ uv }} run python tests/check.py

# repair what ruff can
fix:
    {{ uv }} run ruff check --fix .
    {{ uv }} run ruff format .
