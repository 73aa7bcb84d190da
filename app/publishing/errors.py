"""The one error of this folder: its text is one line that names the thing, the place and the remedy."""


class PublishError(Exception):
    """Publishing cannot start or go on: a bad name or URL, an absent or refusing broker, an unwritable caption file."""
