"""How much a request costs here, beside the peers and beside the bare hand-off.

`python -m benchmarks --help`. Each part is the module of its name: in_process, latency, wire,
hostile, memory, stress. `python -m benchmarks.plot` puts the results into docs/benchmarks.md.
"""
