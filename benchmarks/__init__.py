"""Demonstrations and records of work at the size of whole models; ``python -m benchmarks.demo``.

Not part of the installed package. Single operators are measured by ``python -m myops.bench``.
"""
