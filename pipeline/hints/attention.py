"""Where a convolutional network looks: its channels added up, place by place.

Shape legend
    N  rows (samples)
    C  channels, of student and teacher each its own
    H  height
    W  width
    P  places, H times W
"""

from torch import Tensor
from torch.linalg import vector_norm
from torch.nn import functional as F  # noqa: N812 - its name everywhere

from pipeline.errors import ConfigError
from pipeline.hints.rows import flat, lifted, rescaled, squared_distance, unit

MAP_AXES = 4


def attention_transfer(student_NCHW: Tensor, teacher_NCHW: Tensor) -> Tensor:
    """||Q / ||Q|| - Q' / ||Q'|| ||^2 a row, 0 to 2, [N], for Q = sum over channels of a^2 at every place.

    Zagoruyko and Komodakis (2017), "Paying More Attention to Attention", arXiv 1612.03928: transfer by activations,
    with p = 2. They write the norm itself, and their code has its square over the number of places; this is the square,
    a sum.

    The larger of two maps of different sizes is brought to the other's by adaptive average pooling of its channels,
    each axis by itself. It sees neither a scale of a row nor a rotation of the channels. A map of zeros looks nowhere:
    1 from any other, 0 from another such. Not for maps of one place, which are all alike, nor for features without
    places.

    Raises:
        ConfigError: a side is not [N, C, H, W], or they have another number of rows.

    """
    for whose, features in (("student", student_NCHW), ("teacher", teacher_NCHW)):
        if features.ndim != MAP_AXES:
            raise ConfigError(
                f'The loss "attention" compares maps [N, C, H, W], and found {list(features.shape)} from the {whose}. '
                'Name a convolutional layer before any pooling to a vector, or use the loss "cka".'
            )
    if len(student_NCHW) != len(teacher_NCHW):
        raise ConfigError(
            f'The loss "attention" found {len(student_NCHW)} rows from the student and {len(teacher_NCHW)} from the '
            "teacher, expected as many. Read the teacher's rows by the ids of the batch."
        )
    height, width = (min(*sides) for sides in zip(student_NCHW.shape[2:], teacher_NCHW.shape[2:], strict=True))
    student_NP, teacher_NP = (_attention(each, height, width) for each in lifted(student_NCHW, teacher_NCHW))
    return squared_distance(student_NP, teacher_NP)


def attention_channel(features_NCHW: Tensor) -> Tensor:
    """Sqrt(sum over channels of a^2), [N, 1, H, W]: one channel in place of all, which has the same attention.

    What to cache of a teacher: C times less. Not for a teacher whose maps are larger than the student's: the root of a
    pooled sum is not that of pooled channels.
    """
    channel: Tensor = vector_norm(*lifted(features_NCHW), dim=1, keepdim=True)
    return channel


def _attention(features_NCHW: Tensor, height: int, width: int) -> Tensor:
    if features_NCHW.shape[2:] != (height, width):
        features_NCHW = F.adaptive_avg_pool2d(features_NCHW, (height, width))
    scaled_NCHW = rescaled(flat(features_NCHW), dim=-1).reshape(features_NCHW.shape)
    return unit(flat(scaled_NCHW.square().sum(dim=1)))
