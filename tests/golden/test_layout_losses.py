"""Losses, schedules and the split against the published implementation's numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from layout_predictor.LayoutTransformer.data.dataset import split_indices
from layout_predictor.LayoutTransformer.training.losses import layout_loss, position_nll, relation_hinge
from layout_predictor.LayoutTransformer.training.schedulers import OptimizerSection, build_schedule
from ldm.relations import RELATIONS
from ldm.util import UserError
from tests.golden_data import golden, relative_error


def test_losses_reproduce_the_reference() -> None:
    config, arrays = golden("layout/losses")
    assert tuple(config["relations"]) == RELATIONS
    first, second = torch.from_numpy(arrays["gmm1"]), torch.from_numpy(arrays["gmm2"])
    rows, kinds = torch.meshgrid(torch.arange(4), torch.arange(4), indexing="ij")
    hinge = relation_hinge(first[rows.flatten()], second[rows.flatten()], kinds.flatten())
    assert relative_error(hinge.view(4, 4), arrays["hinge"]) < 1e-4
    nll = position_nll(first, torch.from_numpy(arrays["gt"])[:, :2].float())
    assert relative_error(nll, arrays["nll"]) < 1e-4
    total = layout_loss(hinge, nll, batch_size=2)
    assert torch.allclose(total, (hinge.sum() + 0.1 * nll.sum()) / 2)
    positions = layout_loss(hinge, nll, batch_size=2, position_weight=0.3, relation_weight=0.0)
    assert torch.allclose(positions, 0.3 * nll.sum() / 2)


def test_a_satisfied_relation_is_pushed_no_further() -> None:
    left, right = torch.zeros(1, 30), torch.zeros(1, 30)
    right[:, 5:10] = 0.9  # u_x
    kind = torch.tensor([RELATIONS.index("left of")])
    assert relation_hinge(left, right, kind).item() == pytest.approx(-0.2)
    assert relation_hinge(right, left, kind).item() == pytest.approx(0.9)
    assert relation_hinge(right, left, torch.tensor([RELATIONS.index("right of")])).item() == pytest.approx(-0.2)


@pytest.mark.parametrize(
    ("case", "section"),
    [
        ("enc_v9_4", OptimizerSection(1e-6, min_lr=1e-8)),
        ("box_v9_4", OptimizerSection(4e-5, min_lr=1e-8, warmup=0.005, hold=0.001, decay=0.9)),
        ("enc_pretrain", OptimizerSection(4e-4, warmup=0.1, hold=0.001, decay=0.9)),
        ("enc_chris", OptimizerSection(4e-4, "ChrisScheduler", warmup=0.1, hold=0.001, decay=0.9)),
    ],
)
def test_schedules_reproduce_the_reference(case: str, section: OptimizerSection) -> None:
    config, arrays = golden("layout/lr")
    rates = rates_of(section, config["total_steps"])
    assert np.allclose(rates[1:], arrays[case], rtol=1e-9, atol=0)


def rates_of(section: OptimizerSection, total: int, done: int = 0) -> list[float]:
    """Learning rates of the updates from number `done` to the end, and after it."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    schedule = build_schedule(optimizer, section, total, done=done)
    rates = [optimizer.param_groups[0]["lr"]]
    for _ in range(total - done):
        optimizer.step()
        schedule.step()
        rates.append(optimizer.param_groups[0]["lr"])
    return rates


def test_schedules_go_on_where_they_were() -> None:
    for name in ("BaseScheduler", "BertScheduler", "ChrisScheduler"):
        section = OptimizerSection(0.1, name, warmup=0.5)
        assert rates_of(section, 10, done=3) == rates_of(section, 10)[3:]
    assert rates_of(OptimizerSection(0.1, "BaseScheduler", warmup=0.5), 10)[9] == 0.1
    with pytest.raises(UserError, match="unknown SCHEDULER"):
        rates_of(OptimizerSection(0.1, "Nobody"), 10)


def test_split_reproduces_the_reference() -> None:
    config, arrays = golden("layout/split")
    train, valid = split_indices(config["n"], config["val_split"])
    assert np.array_equal(train, arrays["train"])
    assert np.array_equal(valid, arrays["valid"])
