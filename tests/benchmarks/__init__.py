"""Benchmarks: `python -m tests.benchmarks NAME` measures and renders the page."""
