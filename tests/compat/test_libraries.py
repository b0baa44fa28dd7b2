"""Training loops and libraries: what they compute is the same, and the record is whole."""

import copy
import logging

import pytest
import torch
from tests import invariants, witness, zoo
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import opscope


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 1))


def batches():
    torch.manual_seed(1)
    return DataLoader(TensorDataset(torch.rand(8, 3), torch.rand(8, 1)), batch_size=4)


def the_same(train, model_of=network):
    """Train a model with and without a trace; return the trace if both came out equal."""
    plain, traced = model_of(), model_of()
    torch.manual_seed(2)
    train(plain)
    torch.manual_seed(2)
    with opscope.trace(traced) as trace:
        train(traced)
    assert witness.bits(list(traced.state_dict().values())) == witness.bits(
        list(plain.state_dict().values())
    )
    invariants.check(trace)
    return trace


def roots(trace):
    return [call for call in trace.recording.module_calls if call.is_root]


# ------------------------------------------------------------------------------- loops


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda p: torch.optim.SGD(p, 0.1, momentum=0.9),
        lambda p: torch.optim.AdamW(p, 0.1),
        lambda p: torch.optim.Adam(p, 0.1, foreach=True),
        lambda p: torch.optim.AdamW(p, 0.1, fused=True),
    ],
    ids=["sgd", "adamw", "foreach", "fused"],
)
def test_a_plain_loop_trains_to_the_same_weights(optimizer):
    def train(model):
        stepper = optimizer(model.parameters())
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(stepper, 4)
        for _ in range(2):
            for x, y in batches():
                stepper.zero_grad()
                nn.functional.mse_loss(model(x), y).backward()
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                stepper.step()
                schedule.step()

    trace = the_same(train)
    assert len(roots(trace)) == 4
    assert trace["mseloss_1:4"].passes == 4


class Loop:
    """What Lightning does, in its order: hooks of a module around its own training step."""

    def fit(self, module, loader):
        optimizer = module.configure_optimizers()
        module.train()
        with torch.enable_grad():
            for index, batch in enumerate(loader):

                def closure(batch=batch, index=index):
                    loss = module.training_step(batch, index)
                    optimizer.zero_grad()
                    loss.backward()
                    return loss

                optimizer.step(closure)
        module.eval()
        with torch.inference_mode():
            for index, batch in enumerate(loader):
                module.validation_step(batch, index)


class Stepping(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = network()
        self.losses = []

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, index):
        x, y = batch
        return nn.functional.mse_loss(self(x), y)

    def validation_step(self, batch, index):
        self.losses.append(self.training_step(batch, index).item())

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), 0.1)


def test_a_loop_in_the_style_of_lightning_trains_to_the_same_weights():
    trace = the_same(lambda module: Loop().fit(module, batches()), Stepping)
    assert len(roots(trace)) == 4
    assert {module.address for module in trace.modules} >= {"", "net", "net.0", "net.3"}


def test_a_step_in_the_style_of_a_trainer_trains_to_the_same_weights():
    """Mixed precision, accumulated gradients, clipping, and a schedule."""

    def train(model):
        stepper = torch.optim.AdamW(model.parameters(), 0.1)
        schedule = torch.optim.lr_scheduler.LambdaLR(stepper, lambda step: 1 / (step + 1))
        for step, (x, y) in enumerate(batches()):
            with torch.autocast("cpu", torch.bfloat16):
                loss = nn.functional.mse_loss(model(x).float(), y) / 2
            loss.backward()
            if step % 2:
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                stepper.step()
                schedule.step()
                model.zero_grad()

    trace = the_same(train)
    assert "bfloat16" in {value.dtype for value in trace.recording.values}


def test_averaged_weights_and_copies_of_the_model_are_kept_inside_a_trace():
    def train(model):
        average = torch.optim.swa_utils.AveragedModel(model)
        best = copy.deepcopy(model.state_dict())
        for x, y in batches():
            nn.functional.mse_loss(model(x), y).backward()
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.sub_(0.1 * parameter.grad)
            average.update_parameters(model)
        model.load_state_dict(best)
        model.load_state_dict(average.module.state_dict())

    the_same(train)


# ----------------------------------------------------------------------- transformers


WAYS = {
    "greedy": {"do_sample": False},
    "sampling": {"do_sample": True, "top_k": 10, "temperature": 0.8},
    "beam": {"do_sample": False, "num_beams": 3},
    "beam sampling": {"do_sample": True, "num_beams": 2},
    "without a cache": {"do_sample": False, "use_cache": False},
}


@pytest.fixture(scope="module")
def gpt2():
    program = zoo.build("gpt2")
    logging.getLogger("transformers").setLevel(logging.ERROR)
    program.module.generation_config.pad_token_id = 0
    return program


@pytest.mark.parametrize("how", WAYS.values(), ids=WAYS)
def test_generated_tokens_are_those_of_an_untraced_run(gpt2, how, layers):
    def tokens(around):
        torch.manual_seed(5)
        with around as trace:
            return gpt2.module.generate(**gpt2.kwargs, max_new_tokens=5, **how), trace

    plain, _ = tokens(torch.no_grad())
    found, trace = tokens(opscope.trace(gpt2.module, layers=layers))
    assert torch.equal(found, plain)
    assert len(roots(trace)) == 5


def test_a_cache_of_a_fixed_size_is_written_where_it_is(gpt2):
    def tokens(around):
        with around as trace:
            given = {"max_new_tokens": 4, "do_sample": False, "cache_implementation": "static"}
            return gpt2.module.generate(**gpt2.kwargs, **given), trace

    plain, _ = tokens(torch.no_grad())
    found, trace = tokens(opscope.trace(gpt2.module))
    assert torch.equal(found, plain)
    assert any(op.name.endswith("_") and op.writes for op in trace.ops)


@pytest.mark.parametrize("name", ["gpt2", "vit"])
def test_a_transformer_trains_to_the_same_weights(name):
    def train(model):
        program = zoo.shared(name)
        model.train()
        stepper = torch.optim.AdamW(model.parameters(), 0.01)
        for _ in range(2):
            output = model(*program.args, **program.kwargs)
            output[0].float().square().mean().backward()
            stepper.step()
            stepper.zero_grad()

    trace = the_same(train, lambda: zoo.build(name).module)
    assert len(roots(trace)) == 2


def test_the_trainer_of_transformers_trains_to_the_same_loss(tmp_path):
    pytest.importorskip("accelerate")
    zoo._torchvision()
    from transformers import Trainer, TrainingArguments

    def losses(around):
        torch.manual_seed(0)
        model = zoo.build("gpt2", training=True).module
        data = [{"input_ids": torch.arange(5) + i, "labels": torch.arange(5) + i} for i in range(4)]
        given = TrainingArguments(
            str(tmp_path), max_steps=2, per_device_train_batch_size=2, report_to=[], use_cpu=True,
            disable_tqdm=True, save_strategy="no", logging_strategy="no", seed=3,
        )  # fmt: skip
        with around(model) as trace:
            return Trainer(model, given, train_dataset=data).train().training_loss, trace

    plain, _ = losses(lambda model: torch.enable_grad())
    found, trace = losses(opscope.trace)
    assert found == plain
    assert len(roots(trace)) == 2


# -------------------------------------------------------------------- others, from config


@pytest.mark.parametrize("name", ["resnet10t", "vit_tiny_patch16_224", "convnext_atto"])
def test_a_model_of_timm_trains_to_the_same_weights(name):
    zoo._torchvision()
    timm = pytest.importorskip("timm")
    from timm.loss import LabelSmoothingCrossEntropy
    from timm.optim import create_optimizer_v2
    from timm.utils import dispatch_clip_grad

    def build():
        torch.manual_seed(0)
        size = {"img_size": 32} if name.startswith("vit") else {}
        return timm.create_model(name, num_classes=3, drop_path_rate=0.1, **size)

    def train(model):
        model.train()
        stepper = create_optimizer_v2(model, opt="adamw", lr=1e-3)
        x, y = torch.rand(2, 3, 32, 32), torch.tensor([0, 2])
        loss = LabelSmoothingCrossEntropy()(model(x), y)
        loss.backward()
        dispatch_clip_grad(model.parameters(), 1.0)
        stepper.step()

    trace = the_same(train, build)
    assert len(roots(trace)) == 1


def test_a_graph_network_of_torch_geometric_is_replayed():
    pytest.importorskip("torch_geometric")
    from torch_geometric.data import Data
    from torch_geometric.nn import GATConv, GCNConv

    class Graphs(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = GCNConv(3, 4), GATConv(4, 2)

        def forward(self, data):
            x = self.first(data.x, data.edge_index).relu()
            return self.second(x, data.edge_index)

    model = Graphs()
    data = Data(x=torch.rand(4, 3), edge_index=torch.tensor([[0, 1, 2, 3], [1, 2, 3, 0]]))
    plain = model(data)
    with opscope.trace(model, replayable=True) as trace:
        found = model(data)
    assert torch.equal(found, plain)
    assert trace.validate()
    (root,) = roots(trace)
    assert [leaf.path.rpartition(".")[2] for leaf in root.inputs] == ["x", "edge_index"]


def test_a_u_net_of_diffusers_is_replayed():
    pytest.importorskip("diffusers")
    zoo._torchvision()
    from diffusers import UNet2DModel

    model = UNet2DModel(
        sample_size=8, layers_per_block=1, block_out_channels=(8, 16), norm_num_groups=4,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"), attention_head_dim=4,
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    ).eval()  # fmt: skip
    noise = torch.rand(1, 3, 8, 8)
    with torch.no_grad():
        plain = model(noise, 3).sample
        with opscope.trace(model, replayable=True) as trace:
            found = model(noise, 3).sample
    assert torch.equal(found, plain)
    assert trace.validate()
    (root,) = roots(trace)
    assert [leaf.path for leaf in root.outputs] == ["sample"]


@pytest.mark.filterwarnings("default")  # Lightning warns of this machine's workers
def test_lightning_trains_to_the_same_weights():
    lightning = pytest.importorskip("lightning")

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = network()

        def forward(self, x):
            return self.net(x)

        def training_step(self, batch, index):
            x, y = batch
            return nn.functional.mse_loss(self(x), y)

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.1)

    def train(module):
        quiet = dict.fromkeys(
            ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False
        )
        trainer = lightning.Trainer(max_epochs=1, accelerator="cpu", **quiet)
        trainer.fit(module, batches())

    trace = the_same(train, Module)
    assert len(roots(trace)) == 2
