"""Errors that a person reads: one sentence that says what is wrong and what to do."""


class ScanError(ValueError):
    """A scan cannot be read, trusted or written."""


class DeviceError(RuntimeError):
    """A device has no room for what is asked of it."""


class ServerError(RuntimeError):
    """A DICOMweb server is not reached or refuses."""
