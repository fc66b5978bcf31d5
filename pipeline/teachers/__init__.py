"""The teacher: a frozen network that answers with logits. Stage two never reaches this package.

Shape legend: N rows, C classes, X the shape of one input.
"""

import logging
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.bases import refuse_misfit
from pipeline.config import Member, TeacherSettings, ViewSettings
from pipeline.devices import autocast, pick_device, place
from pipeline.encodings.blocks import Deferred, Logits
from pipeline.errors import ConfigError, TeacherError
from pipeline.features import PCA
from pipeline.gradients import TeacherGradients
from pipeline.labels import FeatureSpec, GradientSpec
from pipeline.models import build, count_parameters
from pipeline.reductions import row_shape_of
from pipeline.sequences import there
from pipeline.slopes import derivative
from pipeline.taps import refuse_unknown, tapped, tensor_of
from pipeline.teachers.ensemble import Ensemble
from pipeline.views import Viewed, network_input
from pipeline.weights import fit_state, load_state

_LOG = logging.getLogger("softlabels")
NOISE = 1e-2
"""Rounding, in bfloat16 too, is below such a share of an answer; another layer in between is not."""
PROBED = 2
"""Positions of a sequence."""
Ask = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Teacher:
    """A network in eval mode on its device, with all that decides its answers."""

    network: torch.nn.Module
    device: torch.device
    settings: TeacherSettings
    views: ViewSettings
    found: dict[str, bool] = field(default_factory=dict, compare=False, repr=False)  # of the network, once it was asked

    @property
    def parameters(self) -> int:
        """How many weights it has."""
        return count_parameters(self.network)

    def logits(self, inputs_NX: NDArray[np.generic]) -> torch.Tensor:
        """The logits of a batch, `[N, C]` or of sequences `[N, L, C]`, in float32, on the teacher's device.

        Raises:
            TeacherError: the network does not answer with one row of logits an input.

        """
        return self.answer(torch.from_numpy(inputs_NX).to(self.device)).float()

    def answer(self, inputs_NX: torch.Tensor) -> torch.Tensor:
        """The logits of a batch that is on the teacher's device, `[N, C]` or of sequences `[N, L, C]`.

        They are in the dtype of the network's last layer.

        On a GPU it only launches the work. Where its memory does not take the batch, its halves are asked one after the
        other, and so on: their logits are the same but for the last bits of floats. The log says so.

        Raises:
            TeacherError: the network does not answer with one row of logits an input.

        """
        axes = (2, 3) if self.views.input == "tokens" else (2,)
        with self._unwatched():
            return self._asked(self.network, inputs_NX, axes)

    def answer_inside(
        self, inputs_NX: torch.Tensor, modules: Sequence[str], classes: int | None = None
    ) -> tuple[Logits, dict[str, torch.Tensor]]:
        """The logits of a batch, and what these modules inside answered on the way, `[N, X]`.

        Args:
            inputs_NX: on the teacher's device.
            modules: by their names.
            classes: of sequences, how many logits count: they are then as `answer_in_blocks` gives them. None: all of
                them, as `answer` does.

        Raises:
            TeacherError: as `answer`; or a module did not run, or gave something else than a row for each input.

        """
        found: dict[str, list[torch.Tensor]] = {module: [] for module in modules}
        halves = None if classes is None else self._halved(inputs_NX, modules)
        network: Ask = self.network if halves is None else halves[0]

        def ask(inputs: torch.Tensor) -> torch.Tensor:
            with tapped(self.network, modules) as seen:
                answer = network(inputs)
            for module, parts in found.items():
                part = tensor_of(seen, module, len(inputs))
                if isinstance(part, str):
                    raise TeacherError(
                        f"teacher.features: of the module {module!r} of {self.settings.model}, {part}; expected a "
                        f"tensor of numbers with a row for each of {len(inputs)} inputs. Name another module."
                    )
                parts.append(part)
            return answer

        axes = (2, 3) if self.views.input == "tokens" else (2,)
        with self._unwatched():
            logits: Logits = self._asked(ask, inputs_NX, axes)
        if isinstance(logits, torch.Tensor) and classes is not None:
            logits = logits[..., :classes] if halves is None else Deferred(logits, self._cast(halves[1]), classes)
        return logits, {name: torch.cat(parts) for name, parts in found.items()}

    def gradient(self, inputs_NX: torch.Tensor, spec: GradientSpec, classes_N: torch.Tensor) -> torch.Tensor:
        """How the logits of a batch change with the input that the network is given, [N, *spec.row_shape] in float32.

        It is asked by itself, in float32 and in memory for one backward pass, so that labels are what they are without.
        Not inside `torch.inference_mode()`.

        Args:
            inputs_NX: on the teacher's device, before they are normalised.
            spec: of which logits.
            classes_N: whose, of one logit a row; -1 for zeros.

        Raises:
            TeacherError: the logits cannot be derived by the input; or as `answer`.

        """
        done = 0

        def ask(inputs: torch.Tensor) -> torch.Tensor:
            nonlocal done
            try:
                part = derivative(self.network, inputs, spec, classes_N[done : done + len(inputs)])
            except ConfigError as error:
                raise TeacherError(
                    f"teacher.gradients: {self.settings.model} cannot give any. {error} If the network detaches "
                    "or counts what it is given, leave [teacher.gradients] out, or name another teacher."
                ) from None
            done += len(inputs)
            return part.flatten(1)

        return self._asked(ask, inputs_NX, (2,)).reshape(len(inputs_NX), *spec.row_shape)

    def _unwatched(self) -> AbstractContextManager[object]:
        """Without a graph. In inference mode a network would make what it keeps for later unfit for one."""
        return torch.inference_mode() if self.settings.gradients is None else torch.no_grad()

    @torch.inference_mode()
    def answer_in_blocks(self, inputs_N3L: torch.Tensor, classes: int) -> Logits:
        """The logits of sequences, as `answer`'s but that those beyond the classes are left out.

        They are yet to be made if the network has `hidden`, which gives what its last layer is given, `[N, L, E]`, and
        `head`, which makes logits of any part of that, and both together give its answer to the first positions.

        Raises:
            TeacherError: as `answer`.

        """
        halves = self._halved(inputs_N3L)
        if halves is None:
            return self.answer(inputs_N3L)[..., :classes]
        hidden, head = halves
        return Deferred(self._asked(hidden, inputs_N3L, (3,)), self._cast(head), classes)

    def _halved(self, inputs_N3L: torch.Tensor, modules: Sequence[str] = ()) -> tuple[Ask, Ask] | None:
        """The network's halves; None if it has none, or one of these modules does not run in the first alone."""
        hidden, head = (getattr(self.network, name, None) for name in ("hidden", "head"))
        asked_apart = self.network.members if isinstance(self.network, Ensemble) else [self.network]
        if hidden is None or head is None or not self._in_halves(asked_apart, inputs_N3L[:1]):
            return None
        asked = f"hidden, {', '.join(modules)}"
        if modules and asked not in self.found:
            inputs = network_input(inputs_N3L[:1, ..., :PROBED], self.views, channels_last=False)
            with autocast(self.device, self.settings.precision):
                with tapped(self.network, modules) as first:
                    made = hidden(inputs)
                with tapped(self.network, modules) as last:
                    head(made)
            self.found[asked] = first.keys() >= {*modules} and not last
        return (hidden, head) if not modules or self.found[asked] else None

    def _cast(self, head: Ask) -> Ask:
        """The head as the network runs it, whenever it is asked."""

        def logits(hidden_NLE: torch.Tensor) -> torch.Tensor:
            with torch.inference_mode(), autocast(self.device, self.settings.precision):
                return head(hidden_NLE)

        return logits

    def _in_halves(self, networks: Iterable[Any], inputs_13L: torch.Tensor) -> bool:
        """Whether what their halves give is each network's answer; others may have modules of these names too."""
        if "halves" not in self.found:
            inputs = network_input(inputs_13L[..., :PROBED], self.views, channels_last=False)
            try:
                with autocast(self.device, self.settings.precision):
                    pairs = [(each.head(each.hidden(inputs)), each(inputs)) for each in networks]
                self.found["halves"] = all(
                    apart.shape == whole.shape and bool((apart - whole).abs().max() <= NOISE * whole.abs().max())
                    for apart, whole in pairs
                )
            except Exception:  # noqa: BLE001 - a user's modules, not made to be called so: anything may come of it
                self.found["halves"] = False
        return self.found["halves"]

    def _asked(self, ask: Ask, inputs_NX: torch.Tensor, axes: tuple[int, ...]) -> torch.Tensor:
        inputs = network_input(inputs_NX, self.views, channels_last=self.settings.channels_last)
        fits = True
        try:
            with autocast(self.device, self.settings.precision):
                answer = ask(inputs)
        except torch.OutOfMemoryError as error:
            fits = len(inputs) == 1
            if fits:
                raise TeacherError(
                    f"The teacher {self.settings.model} does not fit into the memory of {self.device} with one input "
                    f"of shape {list(inputs.shape[1:])}: {error}. Use a device with more, or a lower teacher.precision."
                ) from error
        except TeacherError:
            raise
        except (Exception, SystemExit) as error:  # the user's network, the device's memory: anything may come of it
            raise TeacherError(
                f"The teacher {self.settings.model} failed on a batch of shape {list(inputs.shape)}: "
                f"{type(error).__name__}: {error}. Check that it fits these inputs, and lower teacher.batch_size if it "
                "ran out of memory."
            ) from error
        if not fits:  # here, where the error does not hold on to what was in memory any more
            return self._halves(ask, inputs_NX, axes)
        if not isinstance(answer, torch.Tensor) or answer.ndim not in axes or len(answer) != len(inputs_NX):
            found = list(answer.shape) if isinstance(answer, torch.Tensor) else type(answer).__name__
            raise TeacherError(
                f"The teacher {self.settings.model} answered {found} to {len(inputs_NX)} inputs; expected a tensor "
                f"[{len(inputs_NX)}, classes]. Wrap it in a module whose forward returns the logits."
            )
        return answer

    def _halves(self, ask: Ask, inputs_NX: torch.Tensor, axes: tuple[int, ...]) -> torch.Tensor:
        _LOG.warning(
            "the teacher %s ran out of memory on a batch of %d: its halves are asked instead. teacher.batch_size = %d "
            "would be quicker.",
            self.settings.model,
            len(inputs_NX),
            len(inputs_NX) // 2,
        )
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        return torch.cat([self._asked(ask, half, axes) for half in inputs_NX.chunk(2)])


def load_teacher(settings: TeacherSettings, views: ViewSettings, input_shape: tuple[int, ...], classes: int) -> Teacher:
    """Build the network, or each of several, fit its checkpoint, freeze it.

    Raises:
        TeacherError: the checkpoint is missing or does not fit.
        ConfigError: an unknown model, wrong options, or a device that is not there.

    """
    device = pick_device(settings.device)
    networks = [_fitted(member, input_shape, classes) for member in settings.asked]
    network = _mixed(settings, networks, classes)
    place(network.eval().requires_grad_(requires_grad=False), device, channels_last=settings.channels_last)
    return Teacher(network, device, settings, views)


def kept_of(settings: TeacherSettings, dataset: Viewed) -> tuple[tuple[FeatureSpec, ...], GradientSpec | None]:
    """What is asked of a teacher besides its logits, with the shape of what is kept of each: one input tells.

    The network is built for it without its checkpoint, where anything is asked for.

    Raises:
        ConfigError: it has no module of that name, or one that is too wide for a basis, or not wide enough; or these
            samples have no gradients, or no true labels for them.
        TeacherError: a module does not run, or gives no numbers; or the logits cannot be derived by the input.

    """
    gradient = None if settings.gradients is None else _gradient(settings.gradients, dataset)
    if not settings.features and gradient is None:
        return (), None
    networks = [build(each.model, each.options, dataset.input_shape, dataset.classes or 0) for each in settings.asked]
    network = _mixed(settings, networks, dataset.classes or 0).eval()
    for number, each in enumerate(settings.features):
        refuse_unknown(f"teacher.features[{number}].module", network, each.module)
    teacher = Teacher(network.requires_grad_(requires_grad=False), torch.device("cpu"), settings, dataset.settings)
    inputs_1X = torch.from_numpy(dataset.inputs(np.zeros(1, np.int64)))
    if gradient is not None:
        top = replace(gradient, of="top", projections=None, row_shape=dataset.input_shape)
        teacher.gradient(inputs_1X, top, torch.zeros(1, dtype=torch.int64))
    return _features(teacher, inputs_1X), gradient


def _features(teacher: Teacher, inputs_1X: torch.Tensor) -> tuple[FeatureSpec, ...]:
    settings = teacher.settings
    if not settings.features:
        return ()
    _, seen = teacher.answer_inside(inputs_1X, [each.module for each in settings.features])
    there_1L = there(inputs_1X) if teacher.views.input == "tokens" else None
    specs = [each.spec(seen[each.module].shape[1:], (each.dimensions or 0,)) for each in settings.features]
    specs = [replace(spec, row_shape=row_shape_of(spec, seen[spec.module], there_1L)) for spec in specs]
    for number, spec in enumerate(specs):
        if spec.reduction == PCA:
            refuse_misfit(f"teacher.features[{number}]", spec)
    return tuple(specs)


def _gradient(settings: TeacherGradients, dataset: Viewed) -> GradientSpec:
    if dataset.settings.input == "tokens":
        raise ConfigError(
            "teacher.gradients: the inputs are ids of tokens, and have no derivatives; they are of inputs that are "
            "numbers. Leave [teacher.gradients] out, or keep features ([[teacher.features]])."
        )
    if settings.of == "true" and dataset.labels is None:
        raise ConfigError(
            'teacher.gradients.of = "true": the samples have no true labels, which are asked for (mixed views have '
            'none). Use of = "top", the largest logit, or "projections".'
        )
    return settings.spec(dataset.input_shape)


def _mixed(settings: TeacherSettings, networks: list[torch.nn.Module], classes: int) -> torch.nn.Module:
    if not settings.members:
        return networks[0]
    return Ensemble(networks, [member.weight for member in settings.members], settings.mixture, classes)


def _fitted(member: Member, input_shape: tuple[int, ...], classes: int) -> torch.nn.Module:
    network = build(member.model, member.options, input_shape, classes)
    fit_state(network, load_state(member.checkpoint), member.checkpoint)
    return network
