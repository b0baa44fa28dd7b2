"""The columns of a version of the format, and what is known of each."""

import pytest

from opscope.records.calls import Frame, LayerCall, Leaf, ModuleCall
from opscope.records.ops import Op, Read
from opscope.records.recording import (
    Failure,
    GradRegion,
    Module,
    Parameter,
    SavedTensor,
    UnseenCall,
)
from opscope.records.storages import StorageLife
from opscope.records.values import Digest, Value
from opscope.storage.archive import VERSION
from opscope.storage.columns import schema
from opscope.storage.columns.schema import REFERS_TO, fields_of
from opscope.storage.recordings import parts

OWN = (
    schema.CallSite, schema.BoundValue, schema.AliveValue, schema.DigestOfValue, schema.GradientPaths,
)  # fmt: skip
RECORDS = (
    Op, Read, Value, LayerCall, ModuleCall, Leaf, Frame, Module, Parameter, SavedTensor, StorageLife,
    Digest, GradRegion, UnseenCall, Failure, *OWN,
)  # fmt: skip
# Numbers that are no indices: sizes, times, lines, numbers of storages, and the like.
PLAIN_NUMBERS = {
    "Op.sequence_nr", "Op.started_ns", "Op.duration_ns", "Value.shape", "Value.stride", "Value.offset",
    "Value.itemsize", "Value.storage", "LayerCall.started_ns", "LayerCall.duration_ns",
    "ModuleCall.number", "ModuleCall.started_ns", "ModuleCall.duration_ns", "Frame.line",
    "Parameter.shape", "SavedTensor.shape", "SavedTensor.nbytes", "SavedTensor.storage",
    "StorageLife.nbytes", "StorageLife.number", "Digest.nonfinite",
}  # fmt: skip
# Who adds a field gives the format a new version, unless none was released with the last one.
COLUMNS = {
    1: {
        "Op": "index operator reads outputs writes arguments packed layer_call module_call call_site "
        "grad_enabled inference phase sequence_nr node forward_op accumulates recomputed by_autograd "
        "started_ns duration_ns failed custom_function",
        "Read": "value argument overwritten",
        "Value": "index shape stride offset dtype itemsize device storage origin made_by earlier",
        "LayerCall": "index function kind path module_call call_site ops received arguments returned started_ns "
        "duration_ns grad_fn phase failed",
        "ModuleCall": "index module number parent call_site is_root inputs outputs input_structure "
        "output_structure ops layer_calls started_ns duration_ns failed grad_enabled inference",
        "Leaf": "path value",
        "Frame": "file line function",
        "Module": "index address class_name aliases training",
        "Parameter": "index name aliases kind shape dtype itemsize trainable value initialised of_model",
        "SavedTensor": "node name owner shape dtype nbytes storage maker parameter packed",
        "StorageLife": "nbytes device number born freed parameter is_gradient",
        "Digest": "hash norm mean minimum maximum nonfinite sample",
        "GradRegion": "enabled ops module_call",
        "UnseenCall": "function value module_call",
        "Failure": "exception message op layer_call module_call frame",
        "CallSite": "frames",
        "BoundValue": "value parameter",
        "AliveValue": "value",
        "DigestOfValue": "value digest",
        "GradientPaths": "reached sources results",
    }
}


def test_the_columns_of_this_version_are_those_that_it_had():
    found = {kind.__name__: " ".join(field.name for field in fields_of(kind)) for kind in RECORDS}
    assert found == COLUMNS[VERSION]


def test_the_records_are_those_of_the_tables():
    of_tables = {part.record for part in parts().values() if part is not None}
    inside = {field.record for kind in RECORDS for field in fields_of(kind)} - {None}
    assert of_tables | inside == set(RECORDS)


@pytest.mark.parametrize("kind", RECORDS)
def test_of_each_number_it_is_known_whether_it_is_an_index(kind):
    for field in fields_of(kind):
        name = f"{kind.__name__}.{field.name}"
        if field.kind in ("number", "number or none", "numbers", "numbers or nones", "range"):
            assert (name in PLAIN_NUMBERS) != (name in REFERS_TO), name
        else:
            assert name not in REFERS_TO


def test_what_is_referred_to_is_a_table():
    tables = {name for name, part in parts().items() if part is not None}
    assert {target.split()[0] for target in REFERS_TO.values()} <= tables


def test_no_field_is_kept_in_a_way_for_want_of_a_better():
    loose = {f"{k.__name__}.{f.name}" for k in RECORDS for f in fields_of(k) if f.kind == "plain"}
    assert loose == {
        "Op.arguments", "LayerCall.arguments", "ModuleCall.input_structure", "ModuleCall.output_structure",
        "Module.aliases", "Parameter.aliases",
    }  # fmt: skip
