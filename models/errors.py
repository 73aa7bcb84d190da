"""The error of everything that loads or runs a model."""


class ModelError(ValueError):
    """A model folder that cannot be used: one line that names the file, what is wrong with it and what to do."""
