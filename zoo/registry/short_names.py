"""Usual names of settings in other libraries, and the config keys that mean the same here.

The names are not accepted: they only make the error message of an unknown key helpful.
"""

from collections.abc import Iterable

from zoo.errors import name_choices

SHORT_NAMES = {  # last word of the wrong key, in lower case and without _ and - -> right key
    **dict.fromkeys(("lr", "learningrate", "maxlr", "peaklr", "baselr"), "training.learning_rate"),
    **dict.fromkeys(("minlr", "finallr", "endlr", "etamin", "finallearningrate"), "training.final_learning_rate"),
    **dict.fromkeys(("bs", "batchsize", "globalbatchsize", "perdevicetrainbatchsize", "trainbatchsize"), "training.batch_size"),
    **dict.fromkeys(("epoch", "epochs", "maxepochs", "numepochs", "numtrainepochs", "nepochs"), "training.max_steps"),
    **dict.fromkeys(("steps", "maxsteps", "numsteps", "trainsteps", "iters", "maxiters", "iterations"), "training.max_steps"),
    **dict.fromkeys(("wd", "weightdecay", "decay"), "training.weight_decay"),
    **dict.fromkeys(("warmup", "warmupsteps", "numwarmupsteps", "warmupratio", "warmupepochs"), "training.warmup_steps"),
    **dict.fromkeys(("lrscheduler", "lrschedulertype", "scheduler", "sched", "schedule"), "training.schedule"),
    **dict.fromkeys(("clip", "gradclip", "maxgradnorm", "gradientclipval", "clipgradnorm", "clipgradients"), "training.clip_gradients"),
    **dict.fromkeys(("accum", "gradaccum", "gradientaccumulationsteps", "accumulategradbatches", "accumfreq"), "training.accumulate"),
    **dict.fromkeys(("amp", "mixedprecision", "bf16", "fp16", "dtype", "precision"), "training.precision"),
    **dict.fromkeys(("ema", "modelema", "emadecay"), "training.ema_decay"),
    **dict.fromkeys(("savesteps", "saveevery", "ckptevery", "checkpointevery", "savefreq"), "training.checkpoint_every"),
    **dict.fromkeys(("evalsteps", "evalevery", "evalfreq", "valfreq", "evaluateevery", "valcheckinterval"), "training.evaluate_every"),
    **dict.fromkeys(("logsteps", "loggingsteps", "logevery", "logeverynsteps", "printfreq"), "training.log_every"),
    **dict.fromkeys(("logger", "loggers", "wandb", "reportto", "trackers"), "training.trackers"),
    **dict.fromkeys(("numworkers", "workers", "dataloadernumworkers"), "data.num_workers"),
    **dict.fromkeys(("model", "arch", "architecture", "net", "network", "modelname"), "system"),
    **dict.fromkeys(("dataset", "datamodule", "datasets", "trainset"), "data"),
    **dict.fromkeys(("outputdir", "outdir", "logdir", "savedir", "workdir", "logs", "rundir"), "run_dir"),
    **dict.fromkeys(("ckpt", "ckptpath", "checkpointpath", "resumefromcheckpoint", "resumefrom"), "resume"),
    **dict.fromkeys(("pretrained", "loadfrom", "initfrom", "initcheckpoint"), "weights"),
    **dict.fromkeys(("randomseed", "rngseed", "manualseed"), "seed"),
}
EPOCHS = " It counts steps: one epoch has (items / training.batch_size) steps"
HOLDERS = (
    "",
    "trainer",
    "train",
    "training",
    "optimizer",
    "optim",
    "args",
    "hparams",
    "config",
    "cfg",
    "hyperparameters",
    "data",
    "datamodule",
)


def usual_key(key: str) -> str | None:
    """Return the key of this package for a key that other libraries use (``lr``, ``trainer.max_steps``); None if it is not a usual one."""
    holder, _, last = key.lstrip("+~").rpartition(".")
    if holder not in HOLDERS:
        return None
    found = SHORT_NAMES.get(last.lower().replace("_", "").replace("-", ""))
    return None if found == key else found


def near_key(key: str, wrong: str, known: Iterable[str]) -> str:
    """Return a hint for the error message of an unknown key: the key that it usually means, or similar known names.

    Args:
        key: the whole key of the override.
        wrong: the word of it that is unknown.
        known: names that may stand in place of that word.
    """
    meant = usual_key(key)
    if meant is None:
        return name_choices(wrong, known)
    return f"did you mean {meant!r}?" + (EPOCHS if "epoch" in key.lower() and meant == "training.max_steps" else "")
