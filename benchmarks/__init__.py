"""How much a request costs here, beside the peers and beside the bare hand-off.

`python -m benchmarks` measures everything, `--quick` the essentials in under a minute; `--help`
tells the rest.
"""
