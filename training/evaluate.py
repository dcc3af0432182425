"""`python -m training.evaluate generation`: how well sound follows the picture, between its bounds.

Held-out clips of FoleyWorld, as H.264 files, go through the runtime's video reader and an exported
bundle. Every measure
stands beside four bounds of the same run: the true sound, the codec's reconstruction of it, the
sound made for another clip, and the model with the picture taken away.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray

from training import data, foleyworld
from training.classifier import AudioClassifier, load_classifier, train_classifier
from training.measures import agreement, frechet_distance, kl_divergence, onset_f1, onset_times
from vab_rt.bundle import Bundle, open_bundle
from vab_rt.config import GenerateOptions
from vab_rt.errors import OptionError, VabError
from vab_rt.pipeline import Pipeline, load
from vab_rt.video import VideoReader

BATCH = 4
JUDGE_CLIPS, JUDGE_MINUTES = 1600, 4.0


def evaluate_generation(
    bundle: Bundle, judge: AudioClassifier, scenes: list[foleyworld.Scene], options: GenerateOptions
) -> dict:
    """The measures of the bundle's sound for these scenes, and under `bounds` those of each bound.

    Keys: class_agreement and its 95 % half-width, onset_f1_100ms, onset_f1_50ms (impacts only),
    fad, kld, by_class; see `measures.py`.
    """
    pipeline = load(bundle.folder)
    true = np.stack([scene.audio() for scene in scenes])
    frames = [film(scene, bundle) for scene in scenes]
    unguided = msgspec.structs.replace(options, guidance=0.0)
    generated = np.concatenate(list(generate(pipeline, frames, options)))
    sounds = {
        "ground_truth": true,
        "reconstruction": reconstruct(bundle, pipeline, true),
        "shuffled": np.roll(generated, 1, 0),
        "unconditional": np.concatenate(list(generate(pipeline, frames, unguided))),
    }
    reference = Judged(judge, scenes, true)
    result = reference.measure(generated)
    return result | {
        "embedding": "log-mel classifier trained on FoleyWorld (training/classifier.py)",
        "clips": len(scenes),
        "bounds": {name: reference.measure(sound) for name, sound in sounds.items()},
    }


class Judged:
    """What the judge says of the true sound; `measure` compares other sound with it."""

    def __init__(
        self,
        judge: AudioClassifier,
        scenes: list[foleyworld.Scene],
        true: NDArray[np.float32],
    ) -> None:
        self.judge = judge
        self.kinds = [scene.truth.classes[0] for scene in scenes]
        self.labels = np.array([foleyworld.CLASSES.index(kind) for kind in self.kinds])
        self.impacts = [i for i, k in enumerate(self.kinds) if foleyworld.FAMILIES[k] == "impact"]
        self.onsets = [np.array(scenes[i].truth.events[self.kinds[i]]) for i in self.impacts]
        self.probabilities, self.embeddings = listen(judge, true)

    def measure(self, sound: NDArray[np.float32]) -> dict:
        """sound [N, S], clip by clip the one of the same scene."""
        probabilities, embeddings = listen(self.judge, sound)
        share, half_width = agreement(probabilities, self.labels)
        right = probabilities.argmax(1) == self.labels
        onsets = [onset_times(sound[i], foleyworld.SAMPLE_RATE_HZ) for i in self.impacts]
        return {
            "class_agreement": round(share, 4),
            "class_agreement_95": round(half_width, 4),
            "onset_f1_100ms": round(onset_f1(onsets, self.onsets, 0.1), 4),
            "onset_f1_50ms": round(onset_f1(onsets, self.onsets, 0.05), 4),
            "fad": round(frechet_distance(self.embeddings, embeddings), 4),
            "kld": round(kl_divergence(self.probabilities, probabilities), 4),
            "by_class": {
                kind: round(float(right[self.labels == i].mean()), 3)
                for i, kind in enumerate(foleyworld.CLASSES)
                if (self.labels == i).any()
            },
        }


def generate(
    pipeline: Pipeline, frames: list[NDArray[np.uint8]], options: GenerateOptions
) -> Iterator[NDArray[np.float32]]:
    """Sound [B, S] for each clip's frames [F, H, W, 3]; clip i has the seed options.seed + i."""
    c = pipeline.config
    for start in range(0, len(frames), BATCH):
        batch = frames[start : start + BATCH]
        features = np.stack([pipeline.engines.visual_encoder(frames=f) for f in batch])
        tokens = np.full((len(batch), c.num_codebooks, c.num_token_steps), c.mask_id, np.int32)
        seeds = np.arange(start, start + len(batch), dtype=np.uint64) + np.uint64(options.seed)
        for _, done in pipeline.decode_tokens(features, tokens, seeds, options):
            finished = done
        yield pipeline.decode_audio(finished)


def reconstruct(
    bundle: Bundle, pipeline: Pipeline, audio: NDArray[np.float32]
) -> NDArray[np.float32]:
    """The codec's best: encoded and decoded again [N, S]."""
    encoder = onnxruntime.InferenceSession(bundle.read_graph("codec_encoder"))
    batches = [audio[i : i + BATCH] for i in range(0, len(audio), BATCH)]
    tokens = [encoder.run(None, {"audio": batch})[0] for batch in batches]
    return np.concatenate([pipeline.decode_audio(t) for t in tokens])


@torch.no_grad()
def listen(
    judge: AudioClassifier, sound: NDArray[np.float32]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The judge's class probabilities [N, C] and embeddings [N, D] of sound [N, S]."""
    embeddings = torch.cat([judge.embed(torch.from_numpy(s)[None]) for s in sound])
    probabilities = judge.head(embeddings).softmax(1)
    return probabilities.double().numpy(), embeddings.double().numpy()


def get_judge(folder: Path, bundle: Bundle) -> AudioClassifier:
    """The judge, trained on the training split on first use and kept in `folder`/judge.pt."""
    clips = data.clips(folder / "world", "train", JUDGE_CLIPS, bundle.config)
    for step, progress, losses in train_classifier(folder / "judge.pt", clips, JUDGE_MINUTES):
        print(f"judge {progress:6.1%}  step {step}  {losses}", file=sys.stderr, flush=True)
    return load_classifier(folder / "judge.pt")


def film(scene: foleyworld.Scene, bundle: Bundle) -> NDArray[np.uint8]:
    """What the runtime sees of a clip [F, H, W, 3]: written as H.264, read by its own reader."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        foleyworld.write_clip(path, scene, width=480, height=270, fps=25, silent=True)
        frames = list(VideoReader(path, bundle.config).frames())
    return np.stack(frames[: bundle.config.num_frames])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m training.evaluate", description=__doc__)
    parser.add_argument("task", choices=["generation"])
    parser.add_argument("--bundle", help="a bundle folder (default: the shipped one)")
    parser.add_argument("--run", type=Path, default=Path("runs/default"), help="holds the judge")
    parser.add_argument("--clips", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0, help="first clip within the test split")
    parser.add_argument("--guidance", type=float, default=GenerateOptions().guidance)
    parser.add_argument("--temperature", type=float, default=GenerateOptions().temperature)
    parser.add_argument("--top-k", type=int, default=GenerateOptions().top_k)
    parser.add_argument(
        "--mask-temperature", type=float, default=GenerateOptions().mask_temperature
    )
    parser.add_argument("--steps", type=int, default=GenerateOptions().steps)
    parser.add_argument("--json", action="store_true", help="one JSON line and nothing else")
    try:
        _run(parser.parse_args())
    except VabError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


def _run(arguments: argparse.Namespace) -> None:
    if arguments.clips < 2:
        raise OptionError(f"clips is {arguments.clips}, expected at least 2")
    names = ("guidance", "temperature", "top_k", "mask_temperature", "steps")
    options = GenerateOptions(**{name: getattr(arguments, name) for name in names})
    bundle = open_bundle(arguments.bundle)
    seeds = foleyworld.clip_seeds("test", arguments.seed, arguments.clips)
    scenes = [foleyworld.make_scene(seed) for seed in seeds]
    result = evaluate_generation(bundle, get_judge(arguments.run, bundle), scenes, options)
    if not arguments.json:
        for name, row in {"generated": result, **result["bounds"]}.items():
            figures = [f"{key} {value}" for key, value in row.items() if isinstance(value, float)]
            print(f"{name:15}", "  ".join(figures))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
