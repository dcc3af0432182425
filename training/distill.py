"""Fewer passes of a trained model, taught by the model itself.

`python -m training.distill guidance CKPT --shards DIR --out RUN --minutes 60` leaves RUN/ckpt.pt:
one pass of it gives the logits that guidance makes of two, for scales up to --max-guidance
(arXiv:2210.03142). `steps` instead of `guidance` leaves a model that has learned the clips as its
teacher decodes them in many steps: tokens that go together, of which fewer steps lose less
(arXiv:1711.02281, section 4).
"""

import argparse
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from training import distributed
from training.checkpoint import read_checkpoint
from training.command import add_finetuning, report, run_command, settings_of
from training.datasets.clips import ClipSource, TokenisedClips
from training.datasets.resumable_arrays import Field, Row, grow, read_grown
from training.datasets.shards import open_shards
from training.fitting import wants_bfloat16
from training.model import VAB
from training.pretrain import (
    LossOf,
    Masked,
    PretrainSettings,
    finish,
    fit_transformer,
    masked_loss,
)
from training.stage import hold, stage
from vab_rt.config import MAX_GUIDANCE, ModelConfig
from vab_rt.decoding import decode_masked, guided
from vab_rt.errors import OptionError
from vab_rt.options import TokenOptions, Tuning, fill_in
from vab_rt.sampling import fastest_sampler

DISTILLATION = "distillation_steps"
AT_A_TIME = 8
"""Clips that a teacher decodes."""


class DistillSettings(PretrainSettings, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Those of pre-training, and of either way.

    Of guidance: max_guidance, the largest scale that is learned; unguided, the share of the clips
    at scale 1, so that the model stays what it was without. Of steps: clips, how many the teacher
    decodes, in teacher_steps.
    """

    epochs: float = 8.0
    peak_rate: float = 1e-4
    warm_up: float = 0.03
    label_smoothing: float = 0.0
    dropout: float = 0.0
    max_guidance: float = 4.0
    unguided: float = 0.2
    clips: int = 2000
    teacher_steps: int = 16

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("clips", "teacher_steps"):
            if getattr(self, name) < 1:
                raise OptionError(f"distill {name} is {getattr(self, name)}, expected at least 1")
        if not 1 < self.max_guidance <= MAX_GUIDANCE or not 0 <= self.unguided < 1:
            raise OptionError(
                f"distill max_guidance is {self.max_guidance} and unguided {self.unguided}, "
                f"expected more than 1, at most {MAX_GUIDANCE:g}, and 0 to less than 1"
            )

    def require_learned(self, options: Tuning, name: str) -> None:
        """Raises OptionError for a guidance of the model's own that its student will not know."""
        guidance = TokenOptions().guidance if options.guidance is None else options.guidance
        if not 1 <= guidance <= self.max_guidance:
            raise OptionError(
                f"model {name} is decoded with guidance {guidance:g}, expected 1 to its student's "
                f"max_guidance, {self.max_guidance:g}; raise that, or choose another guidance"
            )

    def student_config(self, teacher: ModelConfig) -> ModelConfig:
        return msgspec.structs.replace(teacher, max_guidance=self.max_guidance)


def distill_guidance(
    folder: Path,
    clips: ClipSource,
    teacher: VAB,
    settings: DistillSettings,
    minutes: float | None,
) -> Iterator[tuple[int, float, dict[str, float]]]:
    """Yields (step, progress, losses); leaves `folder`/vab.pt with the averaged weights.

    The student begins as the teacher, which is not changed. Losses: how far it is from the guided
    logits of the teacher (Kullback-Leibler divergence, nats), and how often both would guess the
    same token. minutes None: `settings.epochs` of the clips. Raises OptionError.
    """
    if teacher.config.max_guidance:
        raise OptionError(
            f"model {teacher.config.name} is guided in one pass already, expected one that has "
            "learned from clips; give the checkpoint that it was made of"
        )
    student = VAB(settings.student_config(teacher.config), settings.dropout)
    student.load_state_dict(student.state_dict() | teacher.state_dict())
    loss_of = guided_loss(teacher.to(distributed.device()).eval())
    yield from fit_transformer(folder / "vab.pt", clips, student, loss_of, settings, minutes)


def guided_loss(teacher: VAB) -> LossOf:
    """The loss of a student, which is told a random scale for each clip that has a video."""

    def loss_of(
        student: nn.Module, batch: Masked, config: ModelConfig, s: PretrainSettings
    ) -> tuple[Tensor, Tensor]:
        assert isinstance(s, DistillSettings)
        device = batch.features.device
        scale = batch.conditional * random_scales(len(batch.conditional), s).to(device)  # [B]
        clip, codebook, step = batch.places

        def logits_of(model: nn.Module, conditional: Tensor) -> Tensor:  # [masked, V]
            with torch.autocast(device.type, torch.bfloat16, wants_bfloat16(s.precision, device)):
                logits = model(batch.tokens, batch.features, conditional, batch.first_frame)
            return logits[clip, codebook - config.given_codebooks, step].float()

        with torch.no_grad():
            with_ = logits_of(teacher, torch.ones_like(scale))
            without = logits_of(teacher, torch.zeros_like(scale))
            wanted = torch.lerp(without, with_, scale[clip, None])
        found = logits_of(student, scale)
        logs = found.log_softmax(-1), wanted.log_softmax(-1)
        loss = F.kl_div(*logs, reduction="batchmean", log_target=True)
        return loss, (found.argmax(-1) == wanted.argmax(-1)).float().mean()

    return loss_of


def random_scales(count: int, s: DistillSettings) -> Tensor:
    """1 for some of the clips, for the others up to the largest [count]."""
    drawn = (torch.rand(count) - s.unguided) / (1 - s.unguided)
    return 1 + drawn.clamp(min=0) * (s.max_guidance - 1)


def distill_steps(
    folder: Path,
    clips: ClipSource,
    teacher: VAB,
    settings: DistillSettings,
    minutes: float | None,
    options: TokenOptions,
) -> Iterator[tuple[int, float, dict[str, float]]]:
    """The same of a student that learns from `decoded` clips, with the losses of pre-training.

    options: how the teacher decodes, and the scale that a model with max_guidance is told.
    """
    path, s = folder / "decoded.npz", settings
    options = msgspec.structs.replace(options, steps=s.teacher_steps)
    made_of = msgspec.structs.asdict(options) | {
        "clips": s.clips,
        "teacher": teacher.heads.weight.numpy(force=True),
        "first": clips.batch(0, AT_A_TIME, s.seed).features,
    }
    rows = path.with_suffix("")
    parts = (rows, rows.with_name(f"{rows.name}.partial"))
    with distributed.rank_zero_first():
        make = partial(decoded, rows, teacher, clips, s, options)
        stage(path, lambda: make().save(path), parts=parts, **made_of)
        shutil.rmtree(rows, ignore_errors=True)
    student = VAB(teacher.config, s.dropout)
    student.load_state_dict(teacher.state_dict())
    scale = options.guidance if teacher.config.max_guidance else 1.0

    def loss_of(
        model: nn.Module, batch: Masked, config: ModelConfig, own: PretrainSettings
    ) -> tuple[Tensor, Tensor]:
        batch = msgspec.structs.replace(batch, conditional=scale * batch.conditional)
        return masked_loss(model, batch, config, own)

    source, checkpoint = TokenisedClips.load(path), folder / "vab.pt"
    yield from fit_transformer(checkpoint, source, student, loss_of, s, minutes)


def decoded(
    folder: Path, teacher: VAB, clips: ClipSource, settings: DistillSettings, options: TokenOptions
) -> TokenisedClips:
    """So many of the clips with the tokens that the teacher makes of their features, by way of
    `folder`, where an interrupted run goes on."""
    c, count = teacher.config, -(-settings.clips // AT_A_TIME) * AT_A_TIME
    fields = {
        "tokens": Field("<i2", (c.num_codebooks, c.num_token_steps)),
        "features": Field("<f2", (c.num_frames, c.visual_dim)),
    }
    rows_from = partial(decoded_rows, teacher, clips, settings, options, count)
    arrays, labels = read_grown(grow(folder, fields, count, rows_from), ("tokens", "features"))
    return TokenisedClips(**arrays, labels=np.array(labels, np.float32))


def decoded_rows(
    teacher: VAB,
    clips: ClipSource,
    settings: DistillSettings,
    options: TokenOptions,
    count: int,
    first: int,
) -> Iterator[Row]:
    """The clips from number `first` on, a row each; its labels, maybe none, are its notes."""
    config, given_books = teacher.config, teacher.config.given_codebooks
    backbone = as_backbone(teacher.to(distributed.device()).eval())
    branches, sampler = config.branches(options.guidance), fastest_sampler()
    for step in range(first // AT_A_TIME, count // AT_A_TIME):
        batch = clips.batch(step, AT_A_TIME, settings.seed)
        coarse, fine = np.split(batch.tokens, [given_books], 1)
        given = {"features": batch.features} | ({"coarse": coarse} if given_books else {})
        seeds = np.arange(AT_A_TIME, dtype=np.uint64) + np.uint64(step * AT_A_TIME)
        masked = np.full_like(fine, config.mask_id)
        logits = guided(backbone, given, branches)
        *_, (_, filled) = decode_masked(logits, masked, seeds, options, sampler)
        tokens = np.concatenate([coarse, filled], 1).astype(np.int16)
        features = batch.features.astype(np.float16)
        for i in range(max(0, first - step * AT_A_TIME), AT_A_TIME):
            yield Row({"tokens": tokens[i], "features": features[i]}, batch.labels[i].tolist())


def as_backbone(vab: VAB) -> Callable[..., NDArray[np.float32]]:
    """A model as the runtime calls its graph: arrays in, logits [B, K, T, V] out."""

    @torch.inference_mode()
    def run(
        tokens: np.ndarray,
        features: np.ndarray,
        conditional: np.ndarray,
        coarse: np.ndarray | None = None,
    ) -> NDArray[np.float32]:
        if coarse is not None:
            tokens = np.concatenate([coarse, tokens], 1)
        inputs = (torch.from_numpy(x).to(vab.codebooks.device) for x in (tokens, features))
        scales = torch.from_numpy(conditional).to(vab.codebooks.device)
        return vab(*inputs, scales).cpu().numpy()

    return run


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m training.distill", description=__doc__)
    parser.add_argument("what", choices=("guidance", "steps"), help="what takes fewer passes")
    add_finetuning(parser, DistillSettings())
    parser.add_argument("--shards", required=True, help="clips: a folder or an fsspec URL")
    run_command(_run, parser, words)


def _run(arguments: argparse.Namespace) -> None:
    settings, out = settings_of(arguments, DistillSettings), arguments.out
    given = read_checkpoint(arguments.checkpoint)
    made_of = {"checkpoint": arguments.checkpoint, "what": arguments.what}
    if arguments.what == "guidance":
        settings.require_learned(given.header.options, given.config.name)
        made_of["max_guidance"] = settings.max_guidance
    clips, vab, config = open_shards(arguments.shards, given), given.vab(), given.config
    with distributed.rank_zero_first():
        hold(out / "vab.pt", **made_of)
    if arguments.what == "guidance":
        config = settings.student_config(config)
        training = distill_guidance(out, clips, vab, settings, arguments.minutes)
    else:
        decoding = fill_in(given.header.options, TokenOptions(), config.name)
        training = distill_steps(out, clips, vab, settings, arguments.minutes, decoding)
    report(f"distill {arguments.what}", training)
    options = given.header.options
    finish(out / "ckpt.pt", given, config, out / "vab.pt", options, DISTILLATION)
    print(out / "ckpt.pt")


if __name__ == "__main__":
    main()
