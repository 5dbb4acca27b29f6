"""Benchmark cases: `python -m benchmarks CASE [--quick] [--check] [--json FILE]`."""
