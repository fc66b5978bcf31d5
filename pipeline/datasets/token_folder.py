"""The folder of tokens that `softlabels tokenize` writes: what is in it, and what its description says."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, JsonValue, ValidationError, model_validator

from pipeline.errors import DatasetError
from pipeline.settings import Settings

FORMAT = "softlabels-tokens/1"
DESCRIPTION, TOKENS, STARTS, MASK, LABELS = "tokens.json", "tokens.npy", "starts.npy", "mask.npy", "labels.npy"


class Description(Settings):
    """`tokens.json`: all that the arrays beside it do not say of themselves."""

    format: Literal["softlabels-tokens/1"]
    vocabulary: Annotated[int, Field(ge=2, lt=2**31)]
    end: Annotated[int | None, Field(ge=0)]
    """The token that ends each document."""
    tokenizer: str
    tokenizer_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    documents: Annotated[int, Field(ge=1, lt=2**62)]
    tokens: Annotated[int, Field(ge=1, lt=2**62)]
    class_names: Annotated[tuple[str, ...] | None, Field(strict=False)]
    left_out: Annotated[int, Field(ge=0)] = 0
    """How many documents had nothing in them."""
    made_from: dict[str, JsonValue] | None = None
    """What the command was asked: the same again has nothing to do."""

    @model_validator(mode="after")
    def _end_is_a_token(self) -> "Description":
        if self.end is not None and self.end >= self.vocabulary:
            raise ValueError(f"found end = {self.end}, expected less than vocabulary = {self.vocabulary}")
        return self


def read_description(folder: Path) -> Description:
    """What the description in a folder says.

    Raises:
        DatasetError: there is none, or it is damaged or of another format.

    """
    path = folder / DESCRIPTION
    again = "Point at a folder that `softlabels tokenize` wrote, or make it again."
    try:
        return Description.model_validate_json(path.read_bytes())
    except OSError as error:
        raise DatasetError(
            f"{path}: this description of a folder of tokens cannot be read: {error.strerror or error}. {again}"
        ) from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise DatasetError(
            f"{path}: this is no description in the format {FORMAT}: {f'{place}: ' if place else ''}"
            f"{first['msg'].removeprefix('Value error, ').rstrip('.')}. {again}"
        ) from error
