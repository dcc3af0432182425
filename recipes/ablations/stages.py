"""What a row of an ablation trains, and what is measured of it: the main path is `run_row`."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import torch

from recipes.ablations.rows import Measure, Setup, Stage
from recipes.ablations.run import Run
from training import distributed
from training.checkpoint import write_checkpoint
from training.classification import (
    classification_result,
    finetune_classifier,
    load_classifier,
    weights_path,
)
from training.command import report
from training.contrastive import finetune_contrastive, load_retriever, start_from
from training.datasets.clips import TokenisedClips
from training.evaluation.evaluator import EvalConfig, evaluate_clips, open_evaluator
from training.evaluation.models import generate_from
from training.evaluation.retrieval import retrieval_result
from training.fitting import EMA, averaged_weights
from training.joint import train_jointly
from training.masking import MASK_MEAN
from training.model import VAB
from training.pretrain import pretrain, validate
from training.representation import MODALITIES
from training.stage import key_of
from vab_rt.config import ModelConfig


class Trained(NamedTuple):
    """A row after its stages. vab: the weights after the last. folders: what each stage left.
    clips, held_out: at the row's visual rate."""

    name: str
    setup: Setup
    vab: VAB
    folders: dict[Stage, Path]
    clips: TokenisedClips
    held_out: TokenisedClips


def run_row(run: Run, name: str) -> dict[Measure, dict]:
    """The figures of one row, by measure. Stages that were done before are not done again."""
    trained = train_row(run, name)
    return {
        measure: MEASURES[measure](run, trained) for measure in run.ablations.rows[name].measures
    }


def train_row(run: Run, name: str) -> Trained:
    setup, stages = run.ablations.setup(name), run.ablations.rows[name].stages
    rate_hz = run.start.config.visual_rate_hz
    clips, held_out = (at_rate(x, rate_hz, setup.model) for x in (run.clips, run.held_out))
    trained = Trained(name, setup, untrained(run, setup), {}, clips, held_out)
    for i, stage in enumerate(stages):
        folder = run.out / "stages" / stage_key(run, setup, stages[: i + 1])
        trained.folders[stage] = folder
        trained = trained._replace(vab=STAGES[stage](run, trained, folder))
    return trained


def stage_key(run: Run, setup: Setup, stages: tuple[Stage, ...]) -> str:
    """Equal for rows whose training is equal up to the last of the stages."""
    settings = {
        "masked": (setup.pretrain, run.ablations.steps),
        "contrastive": (setup.contrastive, run.ablations.contrastive_steps),
        "joint": (setup.pretrain, setup.contrastive, run.ablations.steps),
    }
    done = [(stage, *settings[stage]) for stage in stages]
    return key_of(model=setup.model, seed=setup.pretrain.seed, stages=done, **run.inputs)


def untrained(run: Run, setup: Setup) -> VAB:
    torch.manual_seed(setup.pretrain.seed)
    vab = VAB(setup.model)
    vab.use_codebooks(run.start.codec().codebooks)
    return vab.to(distributed.device())


def train_masked(run: Run, trained: Trained, folder: Path) -> VAB:
    """Pre-training; leaves a checkpoint that generates in `folder`/ckpt.pt too."""
    s, clips = trained.setup.pretrain, trained.clips
    epochs = run.ablations.steps * s.batch * s.accumulate * distributed.world_size() / len(clips)
    s = msgspec.structs.replace(s, epochs=epochs)
    report(f"{trained.name}: masked", pretrain(folder, clips, None, trained.vab, s, None))
    return able_to_generate(run, trained, folder)


def able_to_generate(run: Run, trained: Trained, folder: Path) -> VAB:
    """What `folder`/vab.pt holds, also in a whole checkpoint beside it."""
    vab = masked_vab(folder, trained.setup.model)
    header = msgspec.structs.replace(run.start.header, config=trained.setup.model)
    modules = {"vab": vab, "codec": run.start.codec(), **run.start.visual_parts()}
    write_checkpoint(folder / "ckpt.pt", header, modules)
    return vab


def masked_vab(folder: Path, config: ModelConfig) -> VAB:
    vab = VAB(config)
    vab.load_state_dict(averaged_weights(folder / "vab.pt"))
    return vab.to(distributed.device())


def train_contrastive(run: Run, trained: Trained, folder: Path) -> VAB:
    s, clips = trained.setup.contrastive, trained.clips
    s = msgspec.structs.replace(s, epochs=run.ablations.contrastive_steps * s.batch / len(clips))
    report(
        f"{trained.name}: contrastive", finetune_contrastive(folder, trained.vab, clips, s, None)
    )
    start_from(folder / "contrastive.pt", trained.vab)
    return trained.vab


def train_both(run: Run, trained: Trained, folder: Path) -> VAB:
    """Both losses at once; leaves what the two stages leave."""
    setup, start, steps = trained.setup, trained.vab, run.ablations.steps
    stage = train_jointly(folder, trained.clips, start, setup.pretrain, setup.contrastive, steps)
    report(f"{trained.name}: joint", stage)
    trained.folders["masked"] = trained.folders["contrastive"] = folder
    return able_to_generate(run, trained, folder)


STAGES: dict[Stage, Callable[[Run, Trained, Path], VAB]] = {
    "masked": train_masked,
    "contrastive": train_contrastive,
    "joint": train_both,
}


def measure_validation(run: Run, trained: Trained) -> dict:
    """The share of right guesses of the same masked tokens for every row."""
    vab = masked_vab(trained.folders["masked"], trained.setup.model)
    settings = msgspec.structs.replace(trained.setup.pretrain, mask_mean=MASK_MEAN)
    share = validate(EMA(vab), trained.held_out, trained.setup.model, settings)
    return {"masked_accuracy": round(share, 4)}


def measure_generation(run: Run, trained: Trained) -> dict:
    """As in `training.evaluate`, from features of rendered frames; `shuffled` is each clip against
    the sound made for another."""
    config = EvalConfig(
        checkpoint=trained.folders["masked"] / "ckpt.pt",
        options=trained.setup.generate,
        device=distributed.device().type,
    )
    features = trained.held_out.take(np.arange(len(run.seeds))).features  # [N, F, visual_dim]
    clips = evaluate_clips(generate_from, list(features), config, run.workers)
    sounds = [clip.sounds["generated"] for clip in clips]
    shuffled = run.reference.measure(sounds[-1:] + sounds[:-1]) | {"fad": None}  # the same sounds
    name = open_evaluator(config).name
    return run.reference.measure(sounds) | {"shuffled": shuffled, "embedding": name}


def measure_retrieval(run: Run, trained: Trained) -> dict:
    path = trained.folders["contrastive"] / "contrastive.pt"
    retriever = load_retriever(path, trained.setup.model).to(distributed.device())
    return retrieval_result(retriever, trained.held_out)


def measure_classification(run: Run, trained: Trained) -> dict:
    """Fine-tunes the last stage's weights on each of a, v and av."""
    s, clips = trained.setup.classification, trained.clips
    s = msgspec.structs.replace(s, epochs=run.ablations.classification_steps * s.batch / len(clips))
    stages = run.ablations.rows[trained.name].stages
    last = stage_key(run, trained.setup, stages)
    folder = run.out / "classifiers" / key_of(last=last, settings=s)  # their epochs are the steps
    result: dict = {}
    for modality in MODALITIES:
        stage = finetune_classifier(folder, trained.vab, clips, modality, s, None)
        report(f"{trained.name}: classify {modality}", stage)
        path = weights_path(folder, modality)
        classifier = load_classifier(path, trained.setup.model, modality).to(distributed.device())
        result[modality] = classification_result(classifier, trained.held_out)
    return result


MEASURES: dict[Measure, Callable[[Run, Trained], dict]] = {
    "validation": measure_validation,
    "generation": measure_generation,
    "retrieval": measure_retrieval,
    "classification": measure_classification,
}


def at_rate(clips: TokenisedClips, rate_hz: float, config: ModelConfig) -> TokenisedClips:
    """Clips with `rate_hz` features a second at a model's rate, the nearest in time of each."""
    if config.visual_rate_hz == rate_hz:
        return clips
    times_s = (np.arange(config.num_frames) + 0.5) / config.visual_rate_hz
    rows = np.minimum((times_s * rate_hz).astype(int), clips.features.shape[1] - 1)  # [F]
    return TokenisedClips(
        tokens=clips.tokens, features=clips.features[:, rows], labels=clips.labels
    )
