"""The base class of the errors that this package raises."""


class LocalError(Exception):
    """Something on this machine prevents the work; the message says what to do."""
