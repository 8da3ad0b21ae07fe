"""Benchmarks of myops against native torch: ``python -m myops.bench``.

What it is for: one comparison method for every suite. Native and myops are interleaved in one process on the same
inputs, every number carries its spread, losses are printed with the wins, and both sides are set against roofs
measured in the same run. A suite (``dense``, ``sparse``, ``models``) is one module that offers ``HELP``,
``add_arguments`` and ``run``; see ``SUITES`` in ``__main__``.

What it is not for: correctness (the tests do that; the error column here is a report, not a check) and asserting on
time (nothing here fails because something was slow).

Modules: ``timing`` (samples and statistics), ``machine`` (what it ran on, roofs), ``memory`` (peak resident growth),
``accuracy`` (error against a wider type), ``problem`` (shapes, layouts, flops, bytes), ``runner`` (one job to one row),
``report`` (rows, JSON lines, tables, plot), ``suite`` (a run from header to summary), ``dense``, ``sparse`` and
``models`` (over the definitions in ``families``, which the tests share).
"""
