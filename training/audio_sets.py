"""Sound alone: ESC-50 by its five folds, and Speech Commands, as the paper evaluates on them.

`python -m training.audio_sets esc-50 CKPT --media FOLDER --out RUN --minutes 10` fine-tunes on four
folds and tests on the fifth, five times; `speech-commands` trains once, on the split of the set.
"""

import argparse
import csv
import json
import wave
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from training import distributed
from training.checkpoint import Checkpoint, read_checkpoint
from training.classification import (
    ClassificationSettings,
    classification_result,
    finetune_classifier,
    load_classifier,
    weights_path,
)
from training.codecs.recordings import read_sound
from training.command import add_finetuning, report, run_command, settings_of, shown
from training.contrastive import start_from
from training.datasets.clips import TokenisedClips
from vab_rt.config import ModelConfig
from vab_rt.errors import DataError, MediaError

ENCODED_AT_ONCE = 8
KEYWORDS = ("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go")
NOISES = "_background_noise_"
SETTINGS = {  # table 8
    "esc-50": ClassificationSettings(epochs=50, roll=1.0, balanced=False),
    "speech-commands": ClassificationSettings(epochs=10, roll=1.0, balanced=False),
}
VALIDATION_LIST, TEST_LIST = "validation_list.txt", "testing_list.txt"
TRAINING, VALIDATION, TEST = "training", "validation", "testing"


class Sound(msgspec.Struct, frozen=True):
    """One clip: a file from start_s on, its class, and the fold or split that it belongs to."""

    path: Path
    label: str
    part: str
    start_s: float = 0.0


class SoundSet(msgspec.Struct, frozen=True):
    """classes: in the order of the labels. length_s: of a clip, before it is padded."""

    classes: tuple[str, ...]
    sounds: list[Sound]
    length_s: float

    @property
    def parts(self) -> list[str]:
        return sorted({sound.part for sound in self.sounds})


def read_esc50(folder: Path) -> SoundSet:
    """ESC-50 as it is published: meta/esc50.csv with filename, fold and category; audio/*.wav.

    Raises DataError naming the line or the file that is missing.
    """
    path = folder / "meta" / "esc50.csv"
    if not path.is_file():
        raise DataError(
            f"{path} is not there, expected ESC-50 as it is published, with meta/esc50.csv and "
            "audio/; give the folder that holds these two"
        )
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    sounds = []
    for line, row in enumerate(rows, start=2):
        if None in (row.get("filename"), row.get("fold"), row.get("category")):
            raise DataError(
                f"{path}, line {line}: found {sorted(k for k in row if k)}, expected filename, "
                "fold and category; take the file that ESC-50 comes with"
            )
        sound = Sound(folder / "audio" / row["filename"], row["category"], row["fold"])
        if not sound.path.is_file():
            raise DataError(
                f"{path}, line {line}: {sound.path} is not there; copy the set again, whole"
            )
        sounds.append(sound)
    if len({sound.part for sound in sounds}) < 2:
        raise DataError(f"{path} has {len(sounds)} rows, expected clips in at least 2 folds")
    return SoundSet(tuple(sorted({sound.label for sound in sounds})), sounds, length_s=5.0)


def read_speech_commands(folder: Path, all_words: bool = False) -> SoundSet:
    """Speech Commands, version 1 or 2: a folder a word, and lists of what is for testing.

    The task of version 1 has ten words, `unknown` for all others, and `silence`, cut from the
    background noises; with all_words every word is a class. Raises DataError.
    """
    held_out = {}
    for name, part in ((VALIDATION_LIST, VALIDATION), (TEST_LIST, TEST)):
        path = folder / name
        if not path.is_file():
            raise DataError(
                f"{path} is not there, expected Speech Commands as it is published, with "
                f"{VALIDATION_LIST} and {TEST_LIST} beside a folder for each word"
            )
        held_out |= dict.fromkeys(path.read_text().split(), part)
    missing = sorted(name for name in held_out if not (folder / name).is_file())
    if missing:
        raise DataError(
            f"{folder}: {missing[0]} is listed and not there ({len(missing)} files in all); copy "
            "the set again, whole"
        )
    sounds = []
    for path in sorted(folder.glob("[!_.]*/*.wav")):
        word = path.parent.name
        label = word if all_words or word in KEYWORDS else "unknown"
        part = held_out.get(f"{word}/{path.name}", TRAINING)
        sounds.append(Sound(path, label, part))
    if not any(sound.part == TRAINING for sound in sounds):
        raise DataError(f"{folder} holds no words to train on, expected WORD/*.wav")
    if not all_words:
        sounds += silences(folder, len(sounds) // (len(KEYWORDS) + 2))
    return SoundSet(tuple(sorted({sound.label for sound in sounds})), sounds, length_s=1.0)


def silences(folder: Path, count: int) -> list[Sound]:
    """At most `count` seconds of the background noises; of each the last fifth is for testing.

    Raises MediaError naming a noise that cannot be read.
    """
    sounds = []
    for path in sorted((folder / NOISES).glob("*.wav")):
        try:
            with wave.open(str(path)) as file:
                num_seconds = file.getnframes() // file.getframerate()
        except (wave.Error, EOFError) as error:
            raise MediaError(
                f"{path} cannot be read ({error}), expected a .wav file; copy the set again, whole"
            ) from error
        for at in range(num_seconds):
            part = TEST if at >= 0.8 * num_seconds else TRAINING
            sounds.append(Sound(path, "silence", part, float(at)))
    every = max(1, -(-len(sounds) // max(1, count)))
    return sounds[::every]


def tokenised(
    checkpoint: Checkpoint, sound_set: SoundSet, padded: bool = True
) -> Iterator[TokenisedClips]:
    """The sounds of a set in order, a few at a time, by the codec of a checkpoint; no features.

    padded: with silence to the length of the model's clips, as the paper does; else each is as long
    as the set's. Raises MediaError for a file that cannot be read.
    """
    config, codec = checkpoint.config, checkpoint.codec().to(distributed.device())
    length_s = config.clip_s if padded else min(sound_set.length_s, config.clip_s)
    num_samples = round(length_s * config.hop_rate_hz) * config.hop_samples
    for start in range(0, len(sound_set.sounds), ENCODED_AT_ONCE):
        sounds = sound_set.sounds[start : start + ENCODED_AT_ONCE]
        audio = np.stack(
            [read_padded(sound, sound_set.length_s, num_samples, config) for sound in sounds]
        )
        with torch.inference_mode():
            tokens = codec.encode(torch.from_numpy(audio).to(distributed.device())).cpu().numpy()
        labels = [[sound.label == name for name in sound_set.classes] for sound in sounds]
        yield TokenisedClips(
            tokens=tokens.astype(np.int16),
            features=np.zeros((len(sounds), config.num_frames, 1), np.float16),
            labels=np.array(labels, np.float32),
        )


def read_padded(
    sound: Sound, length_s: float, num_samples: int, config: ModelConfig
) -> NDArray[np.float32]:
    """[num_samples], with silence after the end of the sound."""
    rate_hz = config.sample_rate_hz
    samples = read_sound(sound.path, rate_hz)[round(sound.start_s * rate_hz) :]
    heard = samples[: min(num_samples, round(length_s * rate_hz))]
    return np.pad(heard, (0, num_samples - len(heard)))


def folds(sound_set: SoundSet) -> Iterator[tuple[str, NDArray[np.bool_], NDArray[np.bool_]]]:
    """Each test's name, and which sounds [N] are for training and for testing."""
    parts = np.array([sound.part for sound in sound_set.sounds])
    if TEST in parts:
        yield TEST, parts == TRAINING, parts == TEST
        return
    for fold in sound_set.parts:
        yield f"fold-{fold}", parts != fold, parts == fold


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m training.audio_sets", description=__doc__)
    sets = parser.add_subparsers(dest="set", required=True)
    for name, defaults in SETTINGS.items():
        command = sets.add_parser(name)
        add_finetuning(command, defaults)
        command.add_argument("--media", type=Path, required=True, help="the set's folder")
        command.add_argument("--contrastive", type=Path, help="a contrastive.pt to start from")
        command.add_argument("--own-length", action="store_true", help="do not pad to a whole clip")
        command.add_argument("--probe", action="store_true", help="train a linear head alone")
        if name == "speech-commands":
            command.add_argument("--all-words", action="store_true", help="every word is a class")
    run_command(_run, parser, words)


def _run(arguments: argparse.Namespace) -> None:
    settings = settings_of(arguments, ClassificationSettings)
    if arguments.set == "esc-50":
        sound_set = read_esc50(arguments.media)
    else:
        sound_set = read_speech_commands(arguments.media, arguments.all_words)
    checkpoint = read_checkpoint(arguments.checkpoint)
    vab = checkpoint.vab().to(distributed.device())
    if arguments.contrastive is not None:
        start_from(arguments.contrastive, vab)
    encoded = tokenised(checkpoint, sound_set, not arguments.own_length)
    clips = joined(shown("sounds encoded", encoded, -(-len(sound_set.sounds) // ENCODED_AT_ONCE)))
    results = {}
    for name, for_training, for_testing in folds(sound_set):
        folder, probe = arguments.out / name, arguments.probe
        training = finetune_classifier(
            folder, vab, rows_of(clips, for_training), "a", settings, arguments.minutes, probe
        )
        report(name, training)
        path = weights_path(folder, "a", probe)
        classifier = load_classifier(path, checkpoint.config, "a").to(distributed.device())
        results[name] = classification_result(classifier, rows_of(clips, for_testing))
    accuracy = np.mean([result["accuracy"] for result in results.values()])
    print(json.dumps({"set": arguments.set, "accuracy": round(float(accuracy), 4), **results}))


def joined(parts: Iterator[TokenisedClips]) -> TokenisedClips:
    kept = list(parts)
    return TokenisedClips(
        tokens=np.concatenate([part.tokens for part in kept]),
        features=np.concatenate([part.features for part in kept]),
        labels=np.concatenate([part.labels for part in kept]),
    )


def rows_of(clips: TokenisedClips, chosen: NDArray[np.bool_]) -> TokenisedClips:
    return TokenisedClips(
        tokens=clips.tokens[chosen], features=clips.features[chosen], labels=clips.labels[chosen]
    )


if __name__ == "__main__":
    main()
