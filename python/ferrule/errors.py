"""What Ferrule raises. Each error says what is wrong, where, and what to do."""


class Error(Exception):
    """Base of all."""


class InvalidRequest(Error, ValueError):
    """The request cannot be served as written; the text names the limit and the value."""


class InvalidConfig(Error, ValueError):
    """A setting of the engine is out of range, or contradicts another one."""


class ModelNotFound(Error, FileNotFoundError):
    """No model has this name or path."""


class UnsupportedModel(Error):
    """The files are sound, but Ferrule does not run this architecture, tokenizer or type."""


class CorruptModel(Error):
    """A file breaks its own format: truncated, inconsistent, or not what its name says."""


class OutOfMemory(Error, MemoryError):
    """What is needed does not fit; the text has the numbers."""


class DeviceError(Error):
    """The GPU, its driver or its compiler is missing, too old, or failed."""


class Overloaded(Error):
    """The engine's queue is full: try again later."""


class Cancelled(Error):
    """The request was cancelled, or its engine was closed."""


class StorageError(Error, OSError):
    """Disk, network or pip failed."""


class InternalError(Error):
    """A defect of Ferrule's own."""
