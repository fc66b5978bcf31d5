"""How a student's first weights are made of its teacher's, as settings. Nothing here imports torch."""

from typing import Annotated, Literal, TypeAlias

from pydantic import AfterValidator

from pipeline.settings import FilePath, Settings

LayerRule: TypeAlias = Literal["even", "first", "last", "mean"]
WidthRule: TypeAlias = Literal["norm"]
SUFFIX = ".safetensors"


def _safetensors(path: FilePath) -> FilePath:
    if path.suffix != SUFFIX:
        raise ValueError(f"found {str(path)!r}; safetensors are written, so a name that ends in {SUFFIX} was expected")
    return path


class Seeding(Settings):
    """The table `[students.NAME.seeded]`: the student begins from the file that `softlabels seed-student` writes."""

    checkpoint: Annotated[FilePath, AfterValidator(_safetensors)]
    """Where its first weights go."""
    layers: LayerRule = "even"
    """The teacher's layers are cut into as many groups as the student has; of each, the first, the last, the one evenly
    spaced, or the mean makes the student's."""
    widths: WidthRule = "norm"
    """Of units, the student has those whose weights have the largest norm."""
