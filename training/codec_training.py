"""Train a codec on sound alone: `python -m training.codec_training --config NAME --out DIR`.

One loop for every codec: codebooks by k-means, then its losses on waveform, spectra and codebooks,
against the MS-STFT discriminator where that is on. EnCodec's settings are those of its paper.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from training import distributed
from training.codecs.balancer import Balancer, WeightedSum
from training.codecs.codec import Codec, build_codec
from training.codecs.discriminator import Adversary
from training.codecs.recordings import Recordings, read_recordings, recordings, world_sounds
from training.codecs.settings import OF_OUTPUT, CodecTraining, read_training
from training.codecs.spectra import MultiScaleSpectra
from training.command import report, run_command, shown
from training.configs import read_recipe
from training.datasets.rendered import Clips
from training.fitting import EMA, cosine_lr, fit, set_lr, wants_bfloat16
from vab_rt.config import ModelConfig
from vab_rt.errors import OptionError


def train_codec(
    folder: Path,
    clips: Clips | Recordings,
    config: ModelConfig,
    settings: dict,
    minutes: float,
    seed: int,
    training: CodecTraining | None = None,
) -> Iterator[tuple[int, float, dict[str, float]]]:
    """Yields (step, progress, losses); leaves `folder`/codec.pt with the averaged weights.

    settings: of the codec, as `build_codec` takes them. training: by default `read_training`'s.
    """
    t = training or read_training(config.codec)
    device = distributed.device()
    bfloat16 = wants_bfloat16(t.precision, device)
    torch.manual_seed(seed)
    codec = build_codec(config, settings).to(device)
    if not (folder / "codec.pt").exists():
        points = frames_to_fit(codec, clips.audio, t.fit_clips, np.random.default_rng(seed), device)
        for _ in shown("codebooks", codec.fit(points), config.num_codebooks):
            pass
    average = EMA(codec, t.average)
    groups = groups_of(codec, t.encoder_share)
    optimizer = torch.optim.AdamW(groups, betas=t.betas, weight_decay=t.weight_decay)
    combined = Balancer(t.weights) if t.balanced else WeightedSum(t.weights)
    parts = {"codec": codec, "average": average, "optimizer": optimizer, "balancer": combined}
    adversary = None
    if t.discriminator_from < 1:
        adversary = Adversary(t.discriminator_filters, t.peak_rate, t.betas, device)
        parts["discriminator"] = adversary
    loss_of = OutputLosses(t, config.sample_rate_hz, adversary, device)

    def step(i: int, progress: float) -> dict[str, float | Tensor]:
        random = np.random.default_rng((seed, i))
        audio = random_crops(clips.audio, config, t, random).to(device)
        set_lr(optimizer, cosine_lr(progress, t.peak_rate))
        drawn = torch.Generator().manual_seed(int(random.integers(2**62)))
        output, before = codec.reconstruct(audio, drawn, t.dead_below, bfloat16)
        losses, hinge = loss_of(output, audio, progress, random)
        optimizer.zero_grad()
        before = {name: x for name, x in before.items() if t.weights[name]}
        backward(output, combined.gradient(losses, output), before, t.weights)
        if t.max_norm:
            torch.nn.utils.clip_grad_norm_(codec.parameters(), t.max_norm)
        optimizer.step()
        average.update(codec)
        return {name: x.detach() for name, x in (before | losses).items()} | hinge

    yield from fit(folder / "codec.pt", parts, step, minutes, t.steps)


def groups_of(codec: nn.Module, encoder_share: float) -> list[dict[str, Any]]:
    """The weights for an optimiser; the encoder learns at a share of the rate, where that is not
    the same, as its codebooks have to follow it."""
    if encoder_share == 1:
        return [{"params": list(codec.parameters())}]
    encoder = list(codec.encoder.parameters())
    own = {id(x) for x in encoder}
    rest = [x for x in codec.parameters() if id(x) not in own]
    return [{"params": rest}, {"params": encoder, "share": encoder_share}]


class OutputLosses:
    """The losses on a codec's output, with the discriminator's own step where it takes part."""

    def __init__(
        self, t: CodecTraining, rate_hz: int, adversary: Adversary | None, device: torch.device
    ) -> None:
        self.training, self.adversary = t, adversary
        self.spectra = MultiScaleSpectra(rate_hz, t.sizes, t.bands, device, t.spectra_floor)
        self.names = frozenset(name for name in OF_OUTPUT if t.weights[name])

    def __call__(
        self, output: Tensor, target: Tensor, progress: float, random: np.random.Generator
    ) -> tuple[dict[str, Tensor], dict[str, float]]:
        """For output and target [B, S], the codec's losses, and the discriminator's."""
        losses = self.spectra(output, target, self.names)
        if "waveform" in self.names:
            losses["waveform"] = F.l1_loss(output, target)
        if self.adversary is None or progress < self.training.discriminator_from:
            return losses, {}
        if random.random() < self.training.discriminator_share:
            set_lr(self.adversary.optimizer, cosine_lr(progress, self.training.peak_rate))
            self.adversary.learn(output, target)
        of_codec, hinge = self.adversary.losses(output, target)
        return losses | of_codec, {"discriminator": hinge}


def backward(
    output: Tensor, gradient: Tensor, before: dict[str, Tensor], weights: dict[str, float]
) -> None:
    """One pass back from the output, whose gradient is known, and the losses that lie before it."""
    if not before:
        output.backward(gradient)
        return
    total = sum(weights[name] * loss for name, loss in before.items())
    torch.autograd.backward([output, total], [gradient, torch.ones_like(total)])


@torch.no_grad()
def frames_to_fit(
    codec: Codec,
    audio: NDArray[np.int16],
    count: int,
    random: np.random.Generator,
    device: torch.device,
) -> Tensor:
    """`Codec.points` [N', width] of `count` clips of audio [N, S], as many as `fit_shares` asks
    for."""
    kept = []
    for row in random.permutation(len(audio))[:count]:
        gain = np.float32(10 ** random.uniform(-0.3, 0.1) / 32767)
        points = codec.points(torch.from_numpy(audio[row] * gain)[None].to(device))[0]
        drawn = torch.from_numpy(random.random(len(points), np.float32)).to(device)
        kept.append(points[drawn < codec.fit_shares(points)])
    return torch.cat(kept)


def random_crops(
    audio: NDArray[np.int16], config: ModelConfig, t: CodecTraining, random: np.random.Generator
) -> Tensor:
    """Crops of random clips of audio [N, S] at random gains [B, crop samples], in whole hops."""
    length = round(t.crop_s * config.hop_rate_hz) * config.hop_samples
    if length > audio.shape[1]:
        raise OptionError(
            f"crop_s is {t.crop_s}, expected at most the length of a clip, "
            f"{audio.shape[1] / config.sample_rate_hz:g} s"
        )
    rows = random.integers(len(audio), size=t.batch)
    starts = random.integers(audio.shape[1] - length + 1, size=t.batch)
    crops = np.stack([audio[r, s : s + length] for r, s in zip(rows, starts, strict=True)])
    gains = 10 ** random.uniform(-0.3, 0.1, (t.batch, 1))
    return torch.from_numpy((crops / 32767 * gains).astype(np.float32))


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m training.codec_training", description=__doc__)
    parser.add_argument("--config", default="default", help="a recipe, by name or as a .toml file")
    parser.add_argument(
        "--media", type=Path, help="a folder of sound or video (wav, mp3, mp4, ...)"
    )
    parser.add_argument("--clips", type=int, help="of FoleyWorld (default: the recipe's)")
    parser.add_argument("--out", type=Path, required=True, help="the folder of codec.pt")
    parser.add_argument("--minutes", type=float, help="all runs together (default: the recipe's)")
    parser.add_argument("--workers", type=int, default=1, help="processes that read it all")
    run_command(_run, parser, words)


def _run(arguments: argparse.Namespace) -> None:
    recipe, out = read_recipe(arguments.config), arguments.out
    model = recipe.model
    minutes = recipe.codec_minutes if arguments.minutes is None else arguments.minutes
    count = recipe.rendered_clips if arguments.clips is None else arguments.clips
    if count < 1 or not minutes > 0:
        raise OptionError(f"clips {count} and minutes {minutes:g}: expected at least 1 and above 0")
    training = read_training(model.codec, recipe.codec_training)
    build_codec(model, recipe.codec)  # what is wrong with the recipe shows before any work
    sounds, workers = out / "recordings", arguments.workers
    if arguments.media:
        recordings(sounds, arguments.media, model.sample_rate_hz, workers)
    else:
        world_sounds(sounds, count, workers)
    clips = read_recordings(sounds)
    report("codec", train_codec(out, clips, model, recipe.codec, minutes, 0, training))
    print(f"checkpoint: {out / 'codec.pt'}")


if __name__ == "__main__":
    main()
