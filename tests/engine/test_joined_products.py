"""One product in place of three: the same numbers, the same names, no more memory."""

from __future__ import annotations

import copy

import torch

from sdv2live.engine.model.wan_transformer import WanTransformer
from tests.engine.toy import SMALL, drawn_


def storages(dit: WanTransformer) -> dict[int, int]:
    """Bytes by address of everything that the parameters lie in."""
    return {each.untyped_storage().data_ptr(): each.untyped_storage().nbytes() for each in dit.parameters()}


def test_joined_products_are_the_plain_ones() -> None:
    plain = drawn_(WanTransformer(SMALL))
    joined = copy.deepcopy(plain)
    joined.join_products_()
    x = torch.randn(2, 6, SMALL.dim, generator=torch.Generator().manual_seed(1))
    made = zip(joined.blocks["1"].self_attn.products(x), plain.blocks["1"].self_attn.products(x), strict=True)
    for ours, theirs in made:
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)


def test_the_weights_keep_their_names_and_lie_in_memory_once() -> None:
    plain = drawn_(WanTransformer(SMALL))
    joined = copy.deepcopy(plain)
    joined.join_products_()
    before, after = plain.state_dict(), joined.state_dict()
    assert list(before) == list(after)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert sum(storages(joined).values()) == sum(storages(plain).values())
    layer = joined.blocks["0"].self_attn
    assert layer.joined is not None and layer.joined[0].data_ptr() == layer.q.weight.data_ptr()
    laid_out = storages(joined)
    joined.join_products_()
    assert storages(joined) == laid_out


def test_other_weights_part_what_was_joined() -> None:
    """Moved, converted or loaded anew, the parameters are the truth again."""
    other = drawn_(WanTransformer(SMALL), "other")
    x = torch.randn(1, 6, SMALL.dim, generator=torch.Generator().manual_seed(1))
    expected = other.blocks["0"].self_attn.products(x)
    for assign in (False, True):
        dit = drawn_(WanTransformer(SMALL))
        dit.join_products_()
        dit.load_state_dict(other.state_dict(), assign=assign)
        assert all(map(torch.equal, dit.blocks["0"].self_attn.products(x), expected))
    dit.join_products_()
    made = dit.to(torch.float64).blocks["0"].self_attn.products(x.double())
    assert all(each.dtype is torch.float64 for each in made)
