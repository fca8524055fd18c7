"""The one place where a teacher moves."""

import copy
from typing import Any, Literal, cast

import torch
from pydantic import model_validator
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from tutelage.clock import Cadence, Clock, CosineMomentum, move_fraction, moves
from tutelage.config import Settings
from tutelage.errors import SettingsError


class TeacherSettings(Settings):
    """How a teacher follows the student."""

    every: Cadence
    """It moves after every `step`, after the step that ends an `epoch`, or after every n updates."""
    momentum: CosineMomentum
    """Weight of its past at each move, from start to end along a cosine over its moves."""
    schedule: Literal["run", "epoch"] = "run"
    """The cosine goes on over the run; or begins again with each epoch, so that it hardly leaves its start: RC-MAE's code
    looks up the step within the epoch in a schedule as long as the run."""
    init: Literal["copy", "independent"] = "copy"
    """Begin as a copy of the student, or from timm's own random weights as SdAE's code does (methods A4)."""
    positions: Literal["shared", "ema"] = "shared"
    """Keep the student's positions, or average its own random ones towards them as SdAE's code does (methods A4)."""

    @model_validator(mode="after")
    def _check(self) -> "TeacherSettings":
        if self.every == "epoch" and self.schedule == "epoch":
            raise ValueError("a schedule that begins again with each epoch needs a teacher that moves within it")
        return self


def check_teacher(teacher: TeacherSettings | None, **who: str) -> None:
    """Refuse settings, by name, that say `teacher` where there is none."""
    for name, wanted in who.items():
        if wanted == "teacher" and teacher is None:
            raise SettingsError(
                "C-24",
                f"method.{name} is 'teacher', but there is no method.teacher.",
                todo="Use the student; or a recipe that has one, or a file for --settings.",
            )


class EMATeacher(nn.Module):
    """Copies of student networks that follow them by an exponential moving average.

    theta_t <- m theta_t + (1 - m) theta_s over every parameter, in the parameters' own precision, which the engine keeps
    at float32: in bfloat16 an increment of 1 - m = 0.004 rounds to nothing. Teachers take no gradient, stay in eval mode
    (no drop path), and count their own moves, so that a resumed run can check them against its clock.
    """

    num_moves: Tensor

    def __init__(self, settings: TeacherSettings, **students: nn.Module) -> None:
        """`students` are the networks to follow, by name: `encoder=`, `head=`, `decoder=`."""
        super().__init__()
        self.settings = settings
        self.nets = nn.ModuleDict({name: _follower(net, settings) for name, net in students.items()})
        self.nets.requires_grad_(False)
        self.register_buffer("num_moves", torch.zeros((), dtype=torch.int64))
        self.train(False)

    def __getitem__(self, name: str) -> nn.Module:
        """One of the networks."""
        return self.nets[name]

    @property
    def encoder(self) -> VisionTransformer:
        """The network of that name."""
        return self.nets["encoder"]

    def train(self, mode: bool = True) -> "EMATeacher":
        """Teachers stay in eval mode, whatever their method is put into."""
        return super().train(False)

    @torch.no_grad()
    def update(self, clock: Clock, **students: nn.Module) -> bool:
        """Move towards the students if the cadence says that a move is due at `clock`; return whether it did."""
        if moves(self.settings.every, clock) <= int(self.num_moves):
            return False
        since = clock if self.settings.schedule == "run" else clock.within_epoch
        momentum = self.settings.momentum(move_fraction(self.settings.every, since))
        for name, student in students.items():
            ours = [parameter.detach() for parameter in self.nets[name].parameters()]
            theirs = [parameter.detach() for parameter in student.parameters()]
            torch._foreach_lerp_(ours, theirs, 1 - momentum)
        self.num_moves += 1
        return True


def _follower(student: nn.Module, settings: TeacherSettings) -> nn.Module:
    teacher = copy.deepcopy(student)
    if settings.init == "independent":
        positions = {name: value.clone() for name, value in student.state_dict().items() if name == "pos_embed"}
        _reset(teacher)
        if settings.positions == "shared":
            teacher.load_state_dict(positions, strict=False)
    return teacher


def _reset(net: nn.Module) -> None:
    """Random weights as the network's makers draw them: timm's for an encoder, each layer's own elsewhere."""
    if isinstance(net, VisionTransformer):
        cast(Any, net).init_weights("")
        return
    for layer in net.modules():
        if isinstance(layer, nn.Linear | nn.LayerNorm | nn.Conv2d):
            layer.reset_parameters()
