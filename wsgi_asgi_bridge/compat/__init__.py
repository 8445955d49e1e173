"""Other packages' interfaces, on top of the bridges: programs change an import and nothing else."""

__all__: list[str] = []
