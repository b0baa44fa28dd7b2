"""A program takes the tensors of the model's arguments, and looks at what it is given."""

import pytest
import torch
from tests.exporters.fx.compare import Model, check_same, program_of, record
from torch import nn

import opscope


@pytest.fixture
def x():
    return torch.rand(4, 3)


def placeholders(program):
    return [node.target for node in program.graph.nodes if node.op == "placeholder"]


class Detector(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 2)

    def forward(self, images, targets=None, *more, mask=None, **options):
        found = [self.fc(image).sum(1) for image in images]
        others = [*more, *(targets or {}).values(), *options.values()]
        return found, sum(item.sum() for item in others if isinstance(item, torch.Tensor))


GIVEN = {
    "a list": (lambda x: (([x, x + 1],), {}), ["images_0", "images_1"]),
    "a list of one": (lambda x: (([x],), {}), ["images_0"]),
    "a tuple by name": (lambda x: ((), {"images": (x, x + 1)}), ["images_0", "images_1"]),
    "a dictionary": (
        lambda x: (([x], {"boxes": x + 1, "l.a": x}), {}),
        ["images_0", "targets_boxes", "targets_l_a"],
    ),
    "keys like numbers": (
        lambda x: (([x], {"0": x + 1, 1: x + 2, (2, 3): x + 3}), {}),
        ["images_0", "targets_0", "targets_1", "targets__tuple_"],
    ),
    "more places and names": (
        lambda x: (([x], None, x + 1, x + 2), {"extra": x + 3, "mask": None}),
        ["images_0", "more_0", "more_1", "extra"],
    ),
    "names in another order": (
        lambda x: ((), {"zeta": x, "targets": {"a": x + 1}, "images": [x + 2]}),
        ["images_0", "targets_a", "zeta"],
    ),
}


@pytest.mark.parametrize(("make", "names"), GIVEN.values(), ids=GIVEN)
def test_nested_arguments_keep_their_parameter_their_level_and_their_order(make, names, x):
    model = Detector()
    args, kwargs = make(x)
    program = program_of(model, *args, **kwargs)
    args, kwargs = make(torch.rand(4, 3))
    expected = model(*args, **kwargs)
    given = in_order_of_the_signature(args, kwargs)
    found = program(**dict(zip(names, given, strict=True)))

    assert placeholders(program) == names
    assert all(map(torch.equal, found[0], expected[0]))
    assert found[1] == expected[1]


def in_order_of_the_signature(args, kwargs):
    first = kwargs.pop("images", args[0] if args else ())
    second = kwargs.pop("targets", args[1] if len(args) > 1 else None) or {}
    rest = [*args[2:], *kwargs.values()]
    return [item for item in (*first, *second.values(), *rest) if isinstance(item, torch.Tensor)]


MODULES = {
    "traced": torch.jit.trace,
    "scripted": lambda model, args: torch.jit.script(model),
    "frozen": lambda model, args: torch.jit.freeze(torch.jit.script(model.eval())),
    "exported": lambda model, args: torch.export.export(model, args).module(),
    "symbolically traced": lambda model, args: torch.fx.symbolic_trace(model),
    "compiled": lambda model, args: torch.compile(model, backend="aot_eager"),
}


class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 3)

    def forward(self, image, scale: torch.Tensor):
        return self.fc(image) * scale


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("make", MODULES.values(), ids=MODULES)
def test_arguments_of_what_other_tools_made_of_a_model_have_their_names(make, x):
    scale = torch.rand(3)
    model = make(Scaled(), (x, scale))
    program = record(model, x, scale).to_fx()
    new = torch.rand(4, 3)

    assert placeholders(program) == ["image", "scale"]
    assert torch.equal(program(scale=scale, image=new), model(new, scale))


# --------------------------------------------------------------------------- their check


WRONG = {
    "sizes": (lambda x: torch.rand(5, 3), r"x: f32\[5, 3\] given, where f32\[4, 3\] was recorded"),
    "rank": (lambda x: torch.rand(3), r"x: f32\[3\] given, where f32\[4, 3\] was recorded"),
    "type": (lambda x: x.double(), r"x: f64\[4, 3\] given, where f32\[4, 3\] was recorded"),
    "no tensor": (lambda x: None, r"x: NoneType object given \(must be a tensor, f32\[4, 3\]"),
    "a list": (lambda x: [x, x], r"x: list object given"),
}


@pytest.mark.parametrize(("make", "message"), WRONG.values(), ids=WRONG)
def test_an_input_that_is_not_as_it_was_recorded_is_an_error_that_names_it(make, message, x):
    class Named(nn.Module):
        def forward(self, y, x):
            return x * 2 - y

    model = Named()
    program = record(model, x, x + 1).to_fx()
    with pytest.raises(opscope.OptionError, match=message) as caught:
        program(x, make(x))
    if "must be" not in message and "list" not in message:
        assert "to_fx(check_inputs=False)" in str(caught.value)
        assert isinstance(caught.value, ValueError)


def test_without_the_check_other_sizes_are_what_the_ops_make_of_them(x):
    model = Model(lambda m, x: m.one(x).relu())
    trace = record(model, x)

    assert torch.equal(trace.to_fx(check_inputs=False)(x[:2]), model(x[:2]))
    with pytest.raises(opscope.OptionError):
        trace.to_fx(check_inputs=True)(x[:2])
    with pytest.raises(opscope.OptionError, match="check_inputs: 1"):
        trace.to_fx(check_inputs=1)


def test_a_block_without_a_model_checks_what_it_took(x):
    with opscope.trace() as trace:
        x * 2

    with pytest.raises(opscope.OptionError, match=r"input_0: f32\[3\] given"):
        trace.to_fx()(torch.rand(3))


def test_jagged_tensors_may_have_other_rows():
    def rows(*lengths):
        parts = [torch.rand(length, 3) for length in lengths]
        return torch.nested.nested_tensor(parts, layout=torch.jagged)

    program = program_of(Model(lambda m, x: x * 2), rows(2, 4))
    given = rows(3, 1)
    assert torch.equal(program(given).values(), given.values() * 2)


# --------------------------------------------------------------- one tensor, two inputs


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(3))

    def forward(self, x, y):
        return x.mul(2) + y * self.weight


def test_one_tensor_given_twice_is_two_inputs_and_both_are_used(x):
    model = Two()
    program = record(model, x, x).to_fx()

    assert placeholders(program) == ["x", "y"]
    new = torch.rand(4, 3, requires_grad=True)
    assert torch.equal(program(new, new), model(new, new))
    assert torch.equal(program(x, x.clone()), model(x, x)), "equal ones do as well"
    broken = torch.full((4, 3), torch.nan)
    assert program(broken, broken.clone()).isnan().all()


@pytest.mark.parametrize(
    "make",
    [lambda x: (x, x + 1), lambda x: (x.clone().requires_grad_(), x)],
    ids=["other numbers", "gradients of one"],
)
def test_two_tensors_in_place_of_one_are_an_error_that_says_so(make, x):
    model = Two()
    trace = record(model, x, x)
    with pytest.raises(opscope.OptionError, match="y: was one tensor with x when it was recorded"):
        trace.to_fx()(*make(x))
    assert trace.to_fx(check_inputs=False)(*make(x)).shape == (4, 3)


def test_one_tensor_in_three_places_of_nested_arguments_is_one(x):
    program = program_of(Model(lambda m, a, d: a[0] + a[1] + d["k"]), [x, x], {"k": x})
    assert torch.equal(program(x, x, x), 3 * x)
    with pytest.raises(opscope.OptionError, match="given_1_k: was one tensor with given_0_0"):
        program(x, x, x + 1)


def test_a_parameter_given_as_an_input_is_one_tensor_with_it(x):
    model = Two()
    program = record(model, model.weight, x).to_fx()

    assert torch.equal(program(model.weight, x), model(model.weight, x))
    with pytest.raises(opscope.OptionError, match="x: was one tensor with parameter 'weight'"):
        program(torch.rand(3), x)


def test_a_submodule_takes_other_tensors_where_it_was_given_a_parameter_of_the_model(x):
    class Queries(nn.Module):
        def __init__(self):
            super().__init__()
            self.queries, self.fc = nn.Parameter(torch.rand(4, 3)), nn.Linear(3, 3)

        def forward(self, x):
            return self.fc(self.queries) + x

    model = Queries()
    program = record(model, x).to_fx("fc")
    check_same(model.fc, program, torch.rand(4, 3))
