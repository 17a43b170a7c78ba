"""What a trial is made of: student, views, methods and their objective, drawn from the trial's init seed alone."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from akdtune import networks
from akdtune.contexts import method_context, view_context
from akdtune.data.row_sets import RowDataSet
from akdtune.methods import Method
from akdtune.randomness import derived_seed
from akdtune.registry import lookup, network_name
from akdtune.selections import Selection
from akdtune.settings.checkpoint import checkpoint_file
from akdtune.settings.training import StudentSettings
from akdtune.settings.trial import resolve_ce_weight
from akdtune.teacher.checkpoints import fill_weights
from akdtune.training.config import TrialConfig
from akdtune.training.objective import Objective
from akdtune.views import ViewAugmenter


def build_parts(
    config: TrialConfig,
    frozen: networks.Network | None,
    others: Sequence[networks.Network],
    dataset: RowDataSet,
    train_labels_N: Tensor,
) -> tuple[Objective, networks.Network]:
    """The objective (methods and views) and the student, initialised from the trial's init seed alone."""
    device, inputs, seed = train_labels_N.device, dataset.inputs, config.seeds.init
    student = networks.build(config.student.network, inputs, derived_seed("student", seed)).to(device)
    begin_with(student, config.student)
    view_name, view_settings = config.views
    views: ViewAugmenter = lookup("views", view_name)(
        view_settings, view_context(student, frozen, others, inputs.num_classes, device, seed, config.task.others_alike)
    )
    methods: dict[str, Method] = {}
    of_trial = (student, frozen, train_labels_N, inputs.num_classes, config.training.epochs, seed)
    for name, settings in config.methods:
        context = method_context(name, *of_trial, views.pooled_dims)
        methods[name] = lookup("methods", name)(settings, context)
    selection: Selection | None = None
    if config.selection is not None:
        name, chosen = config.selection
        selection = lookup("selections", name)(chosen)
    ce_weight = resolve_ce_weight(config.training, methods.values(), config.pair)
    objective = Objective(methods, views, ce_weight, selection)
    return objective.to(device), student


def begin_with(student: networks.Network, settings: StudentSettings) -> str:
    """Loads the weights a student begins with, and freezes what does not train.

    Returns:
        What was taken for granted in reading the file, in one line; mostly empty.

    Raises:
        CheckpointError: for a file that is missing or does not fit the network.
    """
    if settings.checkpoint is None:
        return ""
    own = {tensor.data_ptr() for tensor in student.classifier()}
    last_layer = {name for name, parameter in student.named_parameters() if parameter.data_ptr() in own}
    file, name = checkpoint_file(settings.checkpoint), network_name(settings.network)
    note = fill_weights(student, file, may_differ=last_layer, name=name)
    if settings.train == "classifier":
        for name, parameter in student.named_parameters():
            parameter.requires_grad_(name in last_layer)
    return note
