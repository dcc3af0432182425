"""What a codec leaves of sound: `python -m training.reconstruction --config NAME --ckpt FILE`.

Mel distance and SI-SDR of held-out sound, and on FoleyWorld, where the truth is known, what
`python -m training.evaluate generation` says of its bound `reconstruction`.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from training import foleyworld
from training.codecs.codec import Codec, build_codec
from training.codecs.recordings import read_recordings
from training.codecs.spectra import MultiScaleSpectra
from training.command import run_command
from training.configs import read_recipe
from training.evaluation.classifier import load_classifier
from training.evaluation.evaluator import Evaluator
from training.evaluation.reference import Reference
from training.evaluation.table import print_figures
from training.fitting import averaged_weights
from training.samples import as_floats
from vab_rt.config import ModelConfig
from vab_rt.errors import DataError, OptionError, first_line

MEL_SIZES, MEL_BANDS = (256, 512, 1024, 2048), 80


def measure(codec: Codec, true: NDArray[np.float32], rate_hz: int) -> dict:
    """clips, mel_distance in nepers and si_sdr_db, means over sound [N, S] in [-1, 1]."""
    return {"clips": len(true)} | sound_distances(true, reconstruct(codec, true), rate_hz)


def measure_scenes(codec: Codec, evaluator: Evaluator, scenes: list[foleyworld.Scene]) -> dict:
    """The same of scenes, and the measures of `Reference`."""
    true = np.stack([scene.audio() for scene in scenes])  # [N, S]
    found = reconstruct(codec, true)
    reference = Reference(scenes, [evaluator(sound) for sound in true])
    distances = sound_distances(true, found, foleyworld.SAMPLE_RATE_HZ)
    measured = reference.measure([evaluator(sound) for sound in found])
    return {"clips": len(scenes)} | distances | measured


@torch.inference_mode()
def reconstruct(codec: Codec, true: NDArray[np.float32]) -> NDArray[np.float32]:
    """Sound [N, S] encoded to tokens and decoded again."""
    device = codec.codebooks.device
    parts = [codec.decode(codec.encode(torch.from_numpy(x)[None].to(device))) for x in true]
    return torch.cat(parts).cpu().numpy()


def sound_distances(
    true: NDArray[np.float32], found: NDArray[np.float32], rate_hz: int
) -> dict[str, float]:
    """Means over clips [N, S]: of log mel spectra in nepers, and of the waveform in dB."""
    distance = MultiScaleSpectra(rate_hz, MEL_SIZES, MEL_BANDS, torch.device("cpu"))
    pairs = list(
        zip(torch.from_numpy(true)[:, None], torch.from_numpy(found)[:, None], strict=True)
    )
    mel = [distance(b, a, frozenset({"log_mel"}))["log_mel"].item() for a, b in pairs]
    ratios = [si_sdr(a, b) for a, b in zip(true, found, strict=True)]
    return {
        "mel_distance": round(float(np.mean(mel)), 4),
        "si_sdr_db": round(float(np.mean(ratios)), 2),
    }


def si_sdr(true: NDArray[np.float32], found: NDArray[np.float32]) -> float:
    """Scale-invariant signal-to-distortion ratio in dB of sound [S] (arXiv:1811.02508)."""
    true, found = true.astype(np.float64), found.astype(np.float64)
    target = (found @ true) / (true @ true + 1e-9) * true
    error = found - target
    return float(10 * np.log10((target @ target + 1e-9) / (error @ error + 1e-9)))


def load_codec(path: Path, config: ModelConfig, settings: dict) -> nn.Module:
    """The averaged weights of a codec's training. Raises DataError where they do not fit."""
    codec = build_codec(config, settings)
    try:
        codec.load_state_dict(averaged_weights(path))
    except (RuntimeError, KeyError) as error:
        raise DataError(
            f"{path} is not of this codec ({first_line(error)}), expected that of {config.name}; "
            "give the recipe that it was trained with"
        ) from error
    return codec.eval()


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m training.reconstruction", description=__doc__)
    parser.add_argument("--config", default="default", help="the recipe of the codec")
    parser.add_argument("--ckpt", type=Path, required=True, help="its codec.pt")
    parser.add_argument("--recordings", type=Path, help="what codec_training made of --media")
    parser.add_argument("--clips", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0, help="first clip within the test split")
    parser.add_argument("--json", action="store_true", help="one JSON line and nothing else")
    run_command(_run, parser, words)


def _run(arguments: argparse.Namespace) -> None:
    if arguments.clips < 2:
        raise OptionError(f"clips is {arguments.clips}, expected at least 2")
    recipe = read_recipe(arguments.config)
    codec = load_codec(arguments.ckpt, recipe.model, recipe.codec)
    if arguments.recordings:
        held_out = read_recordings(arguments.recordings, held_out=True).audio[: arguments.clips]
        result = measure(codec, as_floats(held_out), recipe.model.sample_rate_hz)
    else:
        seeds = foleyworld.clip_seeds("test", arguments.seed, arguments.clips)
        scenes = [foleyworld.make_scene(seed) for seed in seeds]
        result = measure_scenes(codec, Evaluator(load_classifier()), scenes)
    if not arguments.json:
        print_figures({"reconstruction": result})
    print(json.dumps(result))


if __name__ == "__main__":
    main()
