"""The messages that an inference engine and the benchmark exchange. docs/protocol.md is the specification.

Nothing is imported here: `main` must own stdin and stdout before any other module runs.
"""
