"""What the options of all networks by name must hold."""

from pipeline.errors import ConfigError


def positive(name: str, value: int) -> int:
    """The value of an option, at least 1.

    Raises:
        ConfigError: it is less.

    """
    if value < 1:
        raise ConfigError(f"The model option {name} holds {value}, but a network needs at least 1. Mend that option.")
    return value
