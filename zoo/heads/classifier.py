"""Classification head: logits of a fixed list of classes from the output of one encoder.

Papers: Dosovitskiy et al. 2020 (arXiv 2010.11929), section 3.1 (one linear layer, zeros before fine-tuning); Han et al. 2022
(arXiv 2206.00272), whose Vision GNN predicts through a hidden layer with BatchNorm. References: timm
``vision_transformer.py``, big_vision ``models/vit.py``, huawei-noah/Efficient-AI-Backbones ``vig.py``.

Differences: the input may be of any modality; the 1x1 convolutions of Vision GNN's head are linear layers.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from zoo.errors import ConfigError, DataError, name_choices
from zoo.layers.pool import AttentionPool
from zoo.registry import register
from zoo.types import Accepts, Batch, Encoded, EncoderSpec, Head, HeadOutput, SystemLike, in_parts, need_encoded

POOLS = ("encoder", "attention")
INITS = ("trunc_normal", "zeros", "kaiming")
IMAGENET_CLASSES = 1000


@register("head")
class Classifier(Head):
    """Pooling, an optional hidden layer, then a linear layer; cross entropy against hard or soft labels.

    Args:
        inputs: output spec of the one encoder, by modality.
        num_classes: number of classes; None takes the number of ``class_names``, or ImageNet's 1000 if ``class_names`` is None too. A
            training run fills in both from its data.
        class_names: names of the classes, in the order of the logits.
        pool: "encoder" reads the encoder's pooled vector; "attention" pools its tokens by attention from one learned query.
        num_heads: attention heads of ``pool="attention"``; a divisor of the encoder's width.
        hidden_dim: width of a hidden layer with BatchNorm and GELU (Vision GNN: 1024); None leaves it out.
        multi_label: False has one distribution over all classes (softmax); True gives each class its own probability (sigmoid), trained
            with binary cross entropy, as transformers' ``problem_type: multi_label_classification``.
        dropout: rate before the last layer in training, 0 to below 1.
        label_smoothing: share of the target that is spread evenly over all classes (Szegedy et al. 2016, section 7), 0 to below 1; only
            without ``multi_label``.
        init: initialisation of the linear layers: "trunc_normal" (standard deviation 0.02, timm), "zeros" (only the last layer, so that
            fine-tuning starts from equal probabilities; big_vision) or "kaiming" (Vision GNN).

    Raises:
        ConfigError: ``pool`` or ``init`` is unknown, a number is outside its range, the class names are invalid, or the encoder returns no
            pooled vector for ``pool="encoder"``.
    """

    # "tokens" is the wider of both: with pool="encoder" the instance needs only the pooled vector.
    accepts = Accepts(modalities=("image", "audio", "text"), minimum=1, maximum=1, reads="tokens")
    verbs = ("classify", "logits")
    evaluation = "classification"
    from_source = ("class_names",)
    no_weight_decay = ("probe",)
    silent_keywords = ("multi_label",)

    def __init__(
        self,
        *,
        inputs: Mapping[str, EncoderSpec],
        num_classes: int | None = None,
        class_names: Sequence[str] | None = None,
        pool: str = "encoder",
        num_heads: int | None = None,
        hidden_dim: int | None = None,
        multi_label: bool = False,
        dropout: float = 0.0,
        label_smoothing: float = 0.0,
        init: str = "trunc_normal",
    ) -> None:
        super().__init__()
        for key, value, legal in (("pool", pool, POOLS), ("init", init, INITS)):
            if value not in legal:
                raise ConfigError(f"{key}: there is no {value!r}; {name_choices(value, legal)}")
        for key, share in (("dropout", dropout), ("label_smoothing", label_smoothing)):
            if not 0 <= share < 1:
                raise ConfigError(f"{key}: {share}; allowed is 0 to below 1")
        self.num_classes = checked_number(num_classes, class_names)
        self.class_names = None if class_names is None else list(class_names)
        if multi_label and label_smoothing:
            raise ConfigError(f"label_smoothing: {label_smoothing} spreads one distribution over all classes; set 0 with multi_label=true")
        self.multi_label, self.label_smoothing = multi_label, label_smoothing
        ((self.modality, spec),) = inputs.items()
        self.attention_pool = _attention_pool(pool, spec, num_heads)
        self.reads = ("tokens",) if pool == "attention" else ("pooled",)
        if hidden_dim is not None and hidden_dim < 1:
            raise ConfigError(f"hidden_dim: {hidden_dim}; allowed is 1 or more, or null for no hidden layer")
        self.hidden = None if hidden_dim is None else nn.Linear(spec.dim, hidden_dim)
        self.hidden_norm = None if hidden_dim is None else nn.BatchNorm1d(hidden_dim)
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(hidden_dim or spec.dim, self.num_classes)
        self._initialise(init)

    @classmethod
    def complete(cls, keywords: Mapping[str, Any], *, class_names: Sequence[str] | None) -> dict[str, Any]:
        """Return the constructor keywords with number and names of the classes filled in from the data source.

        A training run calls this before it builds the head.

        Args:
            keywords: constructor keywords from the config.
            class_names: class names of the source, in the order of its labels; None if the source was not read yet.

        Raises:
            ConfigError: the source has no classes, or its classes contradict the keywords.
        """
        if class_names is None:
            return dict(keywords)
        if not class_names:
            raise ConfigError("num_classes: the source at data.source has no class names; label its items, or choose another (data=...)")
        number, names = keywords.get("num_classes"), keywords.get("class_names")
        shown = ", ".join(class_names[:3]) + (", ..." if len(class_names) > 3 else "")
        if number not in (None, len(class_names)):
            raise ConfigError(
                f"num_classes: {number}, but the source at data.source has {len(class_names)} classes ({shown}); set "
                f"system.head.num_classes={len(class_names)}, or null to take the source's"
            )
        # Other names (a translation) are allowed, but a permutation of the source's own names would exchange classes silently.
        reordered = names is not None and set(names) == set(class_names) and list(names) != list(class_names)
        if names is not None and (reordered or len(names) != len(class_names)):
            raise ConfigError(
                f"class_names: {len(names)} names ({', '.join(names[:3])}, ...) are not the {len(class_names)} of the source at "
                f"data.source in its order ({shown}); leave class_names out (null) to take the source's"
            )
        return {**keywords, "num_classes": len(class_names), "class_names": list(class_names if names is None else names)}

    def forward(self, encoded: dict[str, Encoded], batch: Batch) -> HeadOutput:
        """Return the mean loss over this process's items, and the top-1 accuracy if the labels are hard.

        Raises:
            DataError: the batch lacks the encoder's modality, or its labels are missing or have the wrong shape.
        """
        logits = self.project(need_encoded(encoded, self.modality, "classifier"))
        labels = _labels(batch, logits)
        if self.multi_label:
            wanted = labels if labels.is_floating_point() else F.one_hot(labels, self.num_classes).to(logits.dtype)  # [B, num_classes]
            loss = F.binary_cross_entropy_with_logits(logits, wanted)
        else:
            loss = F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)
        # Soft labels (mixup) have no single true class, so there is no top-1.
        metrics = {} if labels.is_floating_point() else {"top1": (logits.detach().argmax(1) == labels).float().mean()}
        return HeadOutput(loss, metrics, {"logits": logits})

    def project(self, encoded: Encoded) -> Float[Tensor, "batch num_classes"]:
        """Return the logits of each item, in fp32 or wider.

        Raises:
            DataError: (training with ``hidden_dim``) the batch has a single item.
        """
        x = encoded.pooled if self.attention_pool is None else self.attention_pool(encoded.tokens, encoded.mask)
        assert x is not None
        if self.hidden is not None and self.hidden_norm is not None:
            if self.training and len(x) < 2:  # torch would raise a ValueError that names no config key
                raise DataError("a batch of one item cannot be normalised by the BatchNorm of hidden_dim; use 2 or more items per process")
            x = F.gelu(self.hidden_norm(self.hidden(x)))
        logits = self.linear(self.dropout(x))
        # Softmax over many classes loses too much in bf16 and fp16, also under autocast.
        return logits.to(torch.promote_types(logits.dtype, torch.float32))

    @torch.inference_mode()
    def logits(self, system: SystemLike, inputs: Any, *, batch_size: int = 64) -> Float[Tensor, "n num_classes"]:
        """Return the logits of raw inputs, or of a processed tensor, of the encoder's modality.

        Args:
            system: the system of this head.
            inputs: one path or text, a list of raw inputs, a processed tensor, or a batch (pictures as lists of patches).
            batch_size: items that are encoded at once.

        Raises:
            DataError: an input cannot be read, or ``inputs`` is empty.
        """
        inputs = [inputs] if isinstance(inputs, str) else inputs
        if len(inputs) == 0:
            raise DataError(f"nothing to classify: the list of {self.modality} inputs is empty; give at least one")
        parts = in_parts(inputs, self.modality, batch_size)
        return torch.cat([self.project(system.encode(self.modality, part)) for part in parts])

    @torch.inference_mode()
    def classify(self, system: SystemLike, inputs: Any, *, batch_size: int = 64) -> Float[Tensor, "n num_classes"]:
        """Return the probability of each class, in the order of ``class_names``; arguments and errors as for ``logits``.

        Each row sums to 1 unless ``multi_label``.
        """
        logits = self.logits(system, inputs, batch_size=batch_size)
        return logits.sigmoid() if self.multi_label else logits.softmax(-1)

    def _initialise(self, init: str) -> None:
        fill = nn.init.kaiming_normal_ if init == "kaiming" else lambda tensor: nn.init.trunc_normal_(tensor, std=0.02)
        if self.attention_pool is not None:
            nn.init.trunc_normal_(self.attention_pool.probe, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                fill(module.weight)
                nn.init.zeros_(module.bias)
        if init == "zeros":  # a hidden layer of zeros would get no gradient, so only the last one starts there
            nn.init.zeros_(self.linear.weight)


def checked_number(num_classes: int | None, class_names: Sequence[str] | None) -> int:
    """Return the number of classes after checking it against the class names.

    Raises:
        ConfigError: there are fewer than two classes, the number differs from the number of names, or a name is empty. A name may stand
            twice, as "sunglasses" among ImageNet's: they are two classes, told apart by their numbers.
    """
    if isinstance(class_names, str):
        raise ConfigError(f"class_names: {class_names!r} is one string; give a list of names")
    if num_classes is None:
        num_classes = IMAGENET_CLASSES if class_names is None else len(class_names)
    if num_classes < 2:
        raise ConfigError(f"num_classes: {num_classes}; a classifier needs 2 or more")
    if class_names is None:
        return num_classes
    if len(class_names) != num_classes:
        raise ConfigError(
            f"class_names: {len(class_names)} names for num_classes {num_classes}; give equal numbers, or leave one of the two out"
        )
    empty = [i for i, name in enumerate(class_names, 1) if not name.strip()]
    if empty:
        raise ConfigError(f"class_names: name {empty[0]} of {num_classes} is empty; every class needs a name")
    return num_classes


def _attention_pool(pool: str, spec: EncoderSpec, num_heads: int | None) -> AttentionPool | None:
    if pool == "encoder":
        if not spec.pooled:
            raise ConfigError(
                f"pool: 'encoder' reads a pooled vector, but the {spec.modality} encoder returns none (pool: none); set "
                f"system.encoders.{spec.modality}.pool to one that pools, or pool=attention with num_heads here"
            )
        if num_heads is not None:
            raise ConfigError(f"num_heads: {num_heads} has no effect with pool 'encoder'; leave it out, or set pool=attention")
        return None
    if num_heads is None:
        raise ConfigError(f"num_heads: pool 'attention' needs it; give a divisor of the encoder's dim {spec.dim}")
    return AttentionPool(dim=spec.dim, num_heads=num_heads, hidden_dim=4 * spec.dim)  # 4: Zhai et al. 2022's "MAP" head


def _labels(batch: Batch, logits: Float[Tensor, "batch num_classes"]) -> Shaped[Tensor, "batch ..."]:
    """Return class indices [B], or probabilities [B, num_classes] in the dtype of the logits.

    Raises:
        DataError: an item has no label, or the labels have the wrong shape.
    """
    labels = batch.need("labels", "head 'classifier'", "choose a data source that gives every item a class")
    soft = labels.is_floating_point()
    expected = logits.shape if soft else logits.shape[:1]
    if labels.shape != expected:
        layout = "probabilities [batch, num_classes]" if soft else "class indices [batch]"
        raise DataError(f"labels have shape {list(labels.shape)}; expected are {layout} with shape {list(expected)}")
    return labels.to(logits.dtype) if soft else labels
