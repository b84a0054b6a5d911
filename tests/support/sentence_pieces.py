"""SentencePiece models of a few sentences, as the old files of published tokenizers hold them."""

import io

import sentencepiece

CORPUS = ["the cat sat on the mat and the dog is 12 years old", "hello world it's a test isn't it?", "naïve words two o'clock"] * 20
FAIRSEQ = {"unk_id": 0, "bos_id": 1, "eos_id": 2}
XLNET = {**FAIRSEQ, "control_symbols": ["<cls>", "<sep>", "<pad>", "<mask>"]}


def pieces(name, **settings):
    """Return a function that writes a model of this file name into a folder."""

    def write(folder):
        model = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(CORPUS), model_writer=model, vocab_size=70, minloglevel=2, hard_vocab_limit=False, **settings
        )
        (folder / name).write_bytes(model.getvalue())

    return write
