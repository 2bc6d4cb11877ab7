"""A smaller tower that starts as a sub-network of a larger one of the same kind.

TinyCLIP (Wu et al. 2023, arXiv 2309.12314), its manual rule: of T layers a student of S takes every floor(T / S)-th,
and of each tensor the leading corner; fused queries, keys and values are cut by heads, and a ResNet stage by stage.
Where floor(T / S) is 1 that means the first S layers, so a warning says so, and ``even`` is offered in its place: S
layers from the first to the last. ``magnitude`` takes the channels, heads and hidden units with the largest mean |w|
instead of the leading ones; the channels of the joint space stay the leading ones, because both towers must agree.

The published code lets the student's activation differ from its teacher's, which costs accuracy without a word. Here
:func:`image_tower` and :func:`text_tower` read what the tensors do not show, and a difference is refused.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from assets.errors import ConfigError, message

DepthSelect = Literal["stride", "even"]
"""Every r-th layer from the first, r = floor(T / S), as published; or equally spaced ones, the last included."""

WidthSelect = Literal["front", "magnitude"]
"""The leading channels, as published; or those with the largest mean |w|."""


@dataclass(frozen=True, slots=True)
class Tower:
    """The weights of one tower, with what they do not show.

    Attributes:
        tensors: Its part of a state dict in open_clip's layout.
        head_width: Channels per attention head.
        behaviour: Settings without tensors, such as the activation; a student must share its teacher's.
    """

    tensors: Mapping[str, Tensor]
    head_width: int
    behaviour: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True, slots=True)
class TowerShape:
    """The size of a tower.

    Attributes:
        kind: ``vit``, ``resnet`` or ``text``.
        width: Channels W between its layers; of a ResNet those after the stem.
        layers: How many; of a ResNet the blocks of each stage.
        head_width: Channels per attention head.
    """

    kind: Literal["vit", "resnet", "text"]
    width: int
    layers: tuple[int, ...]
    head_width: int


@dataclass(frozen=True, slots=True)
class Inherited:
    """What a student starts with.

    Attributes:
        tensors: The student's names, with tensors of its shapes in the teacher's dtype, which share no memory with it.
        facts: What was chosen, for a manifest: both shapes, both rules, ``layers`` (per stage, the teacher's layer
            for each of the student's) and ``channels`` (per group of channels, heads or hidden units the teacher's
            indices; a number stands for that many leading ones).
        warnings: What the user should hear of; often empty.
    """

    tensors: dict[str, Tensor]
    facts: dict[str, Any]
    warnings: tuple[str, ...]


class _Axis(NamedTuple):
    """What lies along one axis: ``parts`` times the members of a group, each with a ``run`` of entries."""

    group: str
    parts: int
    run: int

    def places(self, chosen: Tensor, size: int) -> Tensor:
        """Where the chosen members lie along an axis of that size."""
        starts = torch.arange(0, size, size // self.parts)
        return (starts[:, None, None] + chosen[:, None] * self.run + torch.arange(self.run)).flatten()


class _Copy(NamedTuple):
    """A student's tensor and where it comes from."""

    name: str
    shape: tuple[int, ...]
    source: Tensor
    axes: tuple[_Axis, ...]


_TRANSFORMER = {
    "class_embedding": "width",
    "conv1": "width colours patch patch",
    "positional_embedding": "positions width",
    "token_embedding": "vocabulary width",
    **dict.fromkeys(("proj", "text_projection"), "width embed"),
    **dict.fromkeys(("ln_pre", "ln_post", "ln_final"), "width"),
}
_LAYER = {
    "attn.in_proj": ".qkv width",
    "attn.out_proj": "width .heads",
    "mlp.c_fc": ".units width",
    "mlp.c_proj": "width .units",
    **dict.fromkeys(("ln_1", "ln_2", "ls_1.gamma", "ls_2.gamma"), "width"),
}
_RESNET = {
    **{"conv1": "stem.1 colours kernel kernel", "bn1": "stem.1"},
    **{"conv2": "stem.2 stem.1 kernel kernel", "bn2": "stem.2"},
    **{"conv3": "stem.3 stem.2 kernel kernel", "bn3": "stem.3"},
    "attnpool.positional_embedding": "positions stage.4",
    **{f"attnpool.{name}_proj": "attnpool.heads stage.4" for name in "qkv"},
    "attnpool.c_proj": "embed attnpool.heads",
}
_BOTTLENECK = {
    **{"conv1": ".inner1 in kernel kernel", "bn1": ".inner1"},
    **{"conv2": ".inner2 .inner1 kernel kernel", "bn2": ".inner2"},
    **{"conv3": "out .inner2 kernel kernel", "bn3": "out"},
    **{"downsample.0": "out in kernel kernel", "downsample.1": "out"},
}
"""What lies along each axis of a weight. A leading dot marks what every layer chooses for itself."""

_FIXED = {
    "patch": ("another patch size than its teacher", "give it the teacher's patch_size"),
    "colours": ("other colour channels than its teacher", "name a teacher of RGB images"),
    "kernel": ("other kernels than its teacher", "name a teacher of the same architecture"),
    "vocabulary": ("another vocabulary than its teacher", "give it the teacher's tokenizer, or name another teacher"),
    "positions": ("other positions than its teacher", "give it the teacher's context_length, or its image_size"),
}
"""What must be equal, with the fault and what to do, in the order in which faults are told."""

_LAYER_NAME = re.compile(r"transformer\.resblocks\.(?P<layer>\d+)\.(?P<rest>.+)")
_PART = re.compile(r"(?P<stem>.+?)(?:[._](?P<part>weight|bias|running_mean|running_var))?")
_BLOCK_NAME = re.compile(r"layer(?P<stage>[1-4])\.(?P<layer>\d+)\.(?P<rest>.+)")

_TOP: dict[str, Any] = {"quick_gelu": False}
_BOTH: dict[str, Any] = {"final_ln_after_pool": False, "norm_kwargs": None, "act_kwargs": None}
_VISION = _BOTH | {"pool_type": "tok"}
_TOKENS: dict[str, Any] = {"pad_id": 0, "eos_id": 2, "hf_tokenizer_name": None, "tokenizer_kwargs": None}
_TEXT = _BOTH | _TOKENS | {"pool_type": "argmax", "no_causal_mask": False}
"""Settings of an open_clip config that change what weights mean and leave no trace in them, with their defaults."""


def image_tower(tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> Tower:
    """Take the image tower out of a model.

    Args:
        tensors: The model's state dict.
        config: Its config as open_clip writes it, see :func:`training.models.build.model_config`.
    """
    vision = config["vision_cfg"]
    own = {name: tensor for name, tensor in tensors.items() if name.startswith("visual.")}
    return Tower(own, vision.get("head_width", 64), _behaviour(config, _TOP) | _behaviour(vision, _VISION))


def text_tower(tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> Tower:
    """Take the text tower out of a model; the logit scale and bias belong to none and stay behind.

    Args:
        tensors: The model's state dict.
        config: Its config as open_clip writes it, with a text transformer.
    """
    text = config["text_cfg"]
    others = ("visual.", "logit_scale", "logit_bias")
    own = {name: tensor for name, tensor in tensors.items() if not name.startswith(others)}
    head_width = text.get("width", 512) // text.get("heads", 8)
    return Tower(own, head_width, _behaviour(config, _TOP) | _behaviour(text, _TEXT))


def _behaviour(config: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    return {name: default if config.get(name) is None else config[name] for name, default in defaults.items()}


def tower_shape(tower: Tower) -> TowerShape:
    """Read the size of a tower off its tensors.

    Args:
        tower: Of an image or text tower.

    Raises:
        ConfigError: It is neither a plain ViT or ResNet of CLIP nor a text transformer of CLIP.
    """
    tensors = {_local(name): tensor for name, tensor in tower.tensors.items()}
    layers = [0, 0, 0, 0]
    for name in tensors:
        if found := _LAYER_NAME.fullmatch(name) or _BLOCK_NAME.fullmatch(name):
            stage = int(found.groupdict().get("stage", 1)) - 1
            layers[stage] = max(layers[stage], int(found["layer"]) + 1)
    if (last := tensors.get("conv3.weight")) is not None and all(layers):
        return TowerShape("resnet", last.shape[0], tuple(layers), tower.head_width)
    if (patches := tensors.get("conv1.weight")) is not None and layers[0]:
        return TowerShape("vit", patches.shape[0], (layers[0],), tower.head_width)
    if (tokens := tensors.get("token_embedding.weight")) is not None and layers[0]:
        return TowerShape("text", tokens.shape[1], (layers[0],), tower.head_width)
    what = "weights can be inherited between towers of open_clip's own ViT, ResNet and text transformer only"
    raise ConfigError(message(what, ", ".join(list(tower.tensors)[:3]) or "no tensors", fix="name another model"))


def depth_choice(teacher_layers: int, student_layers: int, select: DepthSelect = "stride") -> tuple[int, ...]:
    """Choose the teacher's layer for each of the student's, ascending.

    Args:
        teacher_layers: T.
        student_layers: S.
        select: How; with ``even`` a single layer is the first, since the one after the input fits no other place.

    Raises:
        ConfigError: S is below 1 or above T.
    """
    if not 1 <= student_layers <= teacher_layers:
        fix = "lower the student's layers, or name a deeper teacher"
        what = "the student has more layers than its teacher, or none"
        raise ConfigError(message(what, student_layers, f"1 to {teacher_layers}", fix))
    if select == "stride":
        return tuple(range(0, teacher_layers, teacher_layers // student_layers))[:student_layers]
    gaps = max(student_layers - 1, 1)
    return tuple((2 * place * (teacher_layers - 1) + gaps) // (2 * gaps) for place in range(student_layers))


def inherit_tower(
    teacher: Tower, student: Tower, depth: DepthSelect = "stride", width: WidthSelect = "front"
) -> Inherited:
    """Cut a student's weights out of its teacher's.

    Args:
        teacher: The larger tower, whole.
        student: The smaller one; only names and shapes of its tensors matter.
        depth: Which layers.
        width: Which channels, heads and hidden units.

    Returns:
        A tensor for each of the student's; with equal shapes the teacher's, bit for bit.

    Raises:
        ConfigError: The student is no sub-network of its teacher, with what to change; or a tensor has no source.
    """
    shapes = tower_shape(teacher), tower_shape(student)
    _check_same_kind(teacher, student, (shapes[0].kind, shapes[1].kind))
    layers = [depth_choice(*counts, depth) for counts in zip(shapes[0].layers, shapes[1].layers, strict=True)]
    copies = list(_copies(teacher, student, shapes[1], layers))
    counts = _counts(copies)
    means = _mean_magnitudes(copies) if width == "magnitude" else {}
    channels = {group: _choose(count, means.get(group)) for group, count in counts.items()}
    return Inherited(
        tensors={copy.name: _cut(copy, channels) for copy in copies},
        facts={
            "teacher": asdict(shapes[0]) | {"layers": list(shapes[0].layers)},
            "student": asdict(shapes[1]) | {"layers": list(shapes[1].layers)},
            "depth": depth,
            "width": width,
            "layers": [list(chosen) for chosen in layers],
            "channels": {
                group: channels[group].tolist() if group in means else count
                for group, count in counts.items()
                if group not in _FIXED
            },
        },
        warnings=tuple(_depth_warnings(shapes[0], layers, depth)),
    )


def _check_same_kind(teacher: Tower, student: Tower, kinds: tuple[str, str]) -> None:
    """Refuse a student in which its teacher's weights would mean something else."""
    towers = zip((teacher, student), kinds, strict=True)
    theirs, own = ({"kind": kind, "head_width": tower.head_width, **tower.behaviour} for tower, kind in towers)
    for name in (*theirs, *sorted(own.keys() - theirs.keys())):
        if theirs.get(name) != own.get(name):
            what = f"the student's {kinds[1]} tower has another {name} than its teacher's"
            fix = "give the student the teacher's" + (", of text width / heads" if name == "head_width" else "")
            raise ConfigError(message(what, str(own.get(name)), repr(str(theirs.get(name))), fix))


def _copies(teacher: Tower, student: Tower, own: TowerShape, layers: Sequence[Sequence[int]]) -> Iterator[_Copy]:
    """Yield a source for each of the student's tensors."""
    sources = {_local(name): tensor for name, tensor in teacher.tensors.items()}
    for name, tensor in student.tensors.items():
        source = sources.get(_source_name(_local(name), layers))
        axes, shape = _axes(_local(name), own), tuple(tensor.shape)
        if source is not None and source.numel() == tensor.numel() == 1:
            yield _Copy(name, shape, source.reshape(shape), ())
        elif source is None or not len(axes) == len(shape) == source.ndim:
            wanted = "none" if source is None else tuple(source.shape)
            what = f"{name} cannot be inherited: the student's shape is {shape}, the teacher's {wanted}"
            raise ConfigError(message(what, fix="give the student the same kind of tower as its teacher"))
        else:
            yield _Copy(name, shape, source, axes)


def _local(name: str) -> str:
    """Take off what tells one tower's tensors from the other's."""
    return name.removeprefix("visual.").removeprefix("text.")


def _source_name(name: str, layers: Sequence[Sequence[int]]) -> str:
    """Name the teacher's tensor that goes to the student's of that name."""
    found = _LAYER_NAME.fullmatch(name) or _BLOCK_NAME.fullmatch(name)
    if found is None:
        return name
    stage = int(found.groupdict().get("stage", 1)) - 1
    return f"{name[: found.start('layer')]}{layers[stage][int(found['layer'])]}{name[found.end('layer') :]}"


def _axes(name: str, tower: TowerShape) -> tuple[_Axis, ...]:
    """Tell what a student's tensor of that name has along its axes; nothing for a name without a rule."""
    resnet = tower.kind == "resnet"
    found = (_BLOCK_NAME if resnet else _LAYER_NAME).fullmatch(name)
    inner, outer = (_BOTTLENECK, _RESNET) if resnet else (_LAYER, _TRANSFORMER)
    layer = name[: found.end("layer")] if found else ""
    parts = _PART.fullmatch(found["rest"] if found else name)
    assert parts is not None
    groups = (inner if found else outer).get(parts["stem"], "").split()
    ends = _block_ends(found) if found and resnet else {}
    axes = tuple(_axis(ends.get(group, group), layer, tower.head_width) for group in groups)
    return axes if parts["part"] in (None, "weight") else axes[:1]  # a bias has the weight's first axis only


def _block_ends(block: re.Match[str]) -> dict[str, str]:
    """Name the channels that go into and come out of a ResNet's block."""
    stage = int(block["stage"])
    first = "stem.3" if stage == 1 else f"stage.{stage - 1}"
    return {"in": f"stage.{stage}" if int(block["layer"]) else first, "out": f"stage.{stage}"}


def _axis(group: str, layer: str, head_width: int) -> _Axis:
    if group == ".qkv":
        return _Axis(f"{layer}.heads", 3, head_width)
    return _Axis(layer + group if group.startswith(".") else group, 1, head_width if group.endswith("heads") else 1)


def _counts(copies: Sequence[_Copy]) -> dict[str, int]:
    """Count the members that the student takes of each group, and refuse what is no sub-network."""
    faults: dict[str, tuple[_Copy, str, str]] = {}
    counts: dict[str, int] = {}
    for copy in copies:
        for axis, theirs, own in zip(copy.axes, copy.source.shape, copy.shape, strict=True):
            counts[axis.group] = own // (axis.parts * axis.run)
            if axis.group in _FIXED and own != theirs:
                faults.setdefault(axis.group, (copy, *_FIXED[axis.group]))
            elif own % axis.run or theirs % axis.run:
                fix = "give the right head_width, or a width that is a multiple of it"
                faults.setdefault("heads", (copy, f"no whole number of heads of {axis.run} channels", fix))
            elif own > theirs:
                fix = "lower its width, mlp_ratio or embed_dim, or name a larger teacher"
                faults.setdefault("larger", (copy, "more channels than its teacher", fix))
    for group in (*_FIXED, "heads", "larger"):
        if group in faults:
            copy, what, fix = faults[group]
            what = f"the student has {what}, in {copy.name}"
            raise ConfigError(message(what, f"shape {copy.shape}", f"that of {tuple(copy.source.shape)}", fix))
    return counts


def _mean_magnitudes(copies: Sequence[_Copy]) -> dict[str, Tensor]:
    """Mean |w| of each member of the groups that may be chosen from, every matrix and kernel counting the same."""
    means: dict[str, list[Tensor]] = {}
    for copy in copies:
        if copy.source.ndim < 2:  # gains and biases have another scale, and running statistics are no weights
            continue
        magnitudes = copy.source.float().abs()
        for place, axis in enumerate(copy.axes):
            if axis.group not in _FIXED and axis.group != "embed":
                members = copy.source.shape[place] // (axis.parts * axis.run)
                own = magnitudes.movedim(place, 0).reshape(axis.parts, members, -1).mean(dim=(0, 2))
                means.setdefault(axis.group, []).append(own)
    return {group: torch.stack(found).mean(dim=0) for group, found in means.items()}


def _choose(count: int, means: Tensor | None) -> Tensor:
    """Choose members in ascending order: the leading ones, or those with the largest means, earlier ones at a tie."""
    if means is None:
        return torch.arange(count)
    return means.cpu().sort(descending=True, stable=True).indices[:count].sort().values


def _cut(copy: _Copy, channels: Mapping[str, Tensor]) -> Tensor:
    """Copy the chosen part of a tensor."""
    tensor = copy.source.detach()
    for place, axis in enumerate(copy.axes):
        if copy.shape[place] < tensor.shape[place]:
            places = axis.places(channels[axis.group], tensor.shape[place])
            tensor = tensor.index_select(place, places.to(tensor.device))
    return tensor.clone(memory_format=torch.contiguous_format)


def _depth_warnings(teacher: TowerShape, layers: Sequence[Sequence[int]], depth: DepthSelect) -> Iterator[str]:
    for stage, (total, chosen) in enumerate(zip(teacher.layers, layers, strict=True), start=1):
        if depth == "stride" and total % len(chosen):
            place = f"stage {stage} of the {teacher.kind} tower" if len(layers) > 1 else f"the {teacher.kind} tower"
            which = f"the first {len(chosen)}" if chosen[-1] == len(chosen) - 1 else ", ".join(map(str, chosen))
            what = f"{len(chosen)} layers do not divide the {total} of {place}: it inherits {which}"
            yield message(f"{what}, none of the last {total - 1 - chosen[-1]}", fix="depth even would spread them")
