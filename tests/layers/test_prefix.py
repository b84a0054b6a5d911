"""The tree of texts against the plain list of their beginnings."""

import pytest
import torch

from zoo.layers.prefix import PrefixTree, alphabetical_order
from zoo.layers.transformer import Block

TEXTS = {
    "different lengths": [[1, 5, 6, 2], [1, 5, 7, 8, 2], [1, 2], [1, 5, 6, 6, 2]],
    "equal texts": [[1, 5, 2], [1, 6, 2], [1, 5, 2], [1, 5, 2]],
    "beginnings of others": [[1, 5, 6, 7], [1, 5], [1], [1, 5, 6, 7, 8]],
    "nothing shared": [[3, 1], [2, 1], [1, 1, 1]],
    "one text": [[4, 4, 4]],
}


def padded(texts, fill):
    """Ids [B, L] whose padding is noise, and lengths."""
    ids = torch.full((len(texts), 1 + max(map(len, texts))), fill)
    for row, text in enumerate(texts):
        ids[row, : len(text)] = torch.tensor(text)
    return ids, torch.tensor([len(text) for text in texts])


def beginnings(texts):
    return {tuple(text[:end]) for text in texts for end in range(1, len(text) + 1)}


def random_texts():
    return [torch.randint(0, 3, (int(length),)).tolist() for length in torch.randint(1, 9, (40,))]


@pytest.mark.parametrize("name", [*TEXTS, "random"])
def test_there_is_one_node_for_each_beginning(name):
    texts = TEXTS.get(name) or random_texts()
    ids, lengths = padded(texts, 5)
    tree = PrefixTree(ids, lengths)
    rows, ends = tree.index // ids.shape[1], tree.index % ids.shape[1]
    found = [tuple(texts[row][: end + 1]) for row, end in zip(rows.tolist(), ends.tolist(), strict=True)]
    assert len(found) == len(set(found)) and set(found) == beginnings(texts)


@pytest.mark.parametrize("name", [*TEXTS, "random"])
def test_two_blocks_over_the_tree_give_what_they_give_over_each_text(name, scramble):
    texts = TEXTS.get(name) or random_texts()
    ids, lengths = padded(texts, 0)
    words, blocks = torch.randn(9, 15), [scramble(Block(dim=15, num_heads=5, hidden_dim=20)) for _ in range(2)]
    tree = PrefixTree(ids, lengths)
    x = blocks[0](words[ids.flatten()[tree.index]], layout=tree)
    last = tree.only(lengths - 1)
    whole, ends = tree.unpack(blocks[1](x, layout=tree)), last.restore(blocks[1](x, layout=last))
    for row, text in enumerate(texts):
        expected = blocks[1](blocks[0](words[torch.tensor(text)][None], None, True), None, True)[0]
        torch.testing.assert_close(whole[row, : len(text)], expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(ends[row], expected[-1], rtol=1e-5, atol=1e-5)
        assert (whole[row, len(text) :] == 0).all()


def test_gradients_of_a_shared_beginning_add_up(scramble):
    ids, lengths = padded(TEXTS["different lengths"], 0)
    block, words = scramble(Block(dim=12, num_heads=3, hidden_dim=20)), torch.randn(9, 12, requires_grad=True)
    tree = PrefixTree(ids, lengths)
    shared = tree.unpack(block(words[ids.flatten()[tree.index]], layout=tree)).square().sum()
    real = torch.arange(ids.shape[1]) < lengths[:, None]
    plain = block(words[ids], None, True)[real].square().sum()
    gradients = [torch.autograd.grad(loss, [words, *block.parameters()]) for loss in (shared, plain)]
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-4)  # sums of a hundred squares


def test_rows_are_ordered_as_words_in_a_dictionary():
    ids = torch.randint(-1, 3, (50, 4))
    assert ids[alphabetical_order(ids)].tolist() == sorted(ids.tolist())
