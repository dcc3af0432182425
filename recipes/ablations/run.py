"""The finished run that all rows of an ablation begin with."""

from functools import cached_property
from pathlib import Path

from recipes.ablations.rows import Ablations
from recipes.encoders import OF_IMAGES
from training import foleyworld
from training.checkpoint import read_checkpoint
from training.datasets.clips import TokenisedClips
from training.datasets.shard_format import encoders_sha256
from training.evaluation.evaluator import EvalConfig, evaluate_clips
from training.evaluation.held_out import held_out_clips
from training.evaluation.models import true_sound
from training.evaluation.reference import Reference
from training.stage import sha256, stage
from vab_rt.config import ModelConfig
from vab_rt.errors import DataError, OptionError

HELD_OUT_SPLIT = "validation"  # what is chosen by these figures is evaluated on the test split
OF_THE_TOKENS = (
    "codec",
    *OF_IMAGES,
    "clip_s",
    "sample_rate_hz",
    "hop_samples",
    "num_codebooks",
    "codebook_size",
    "code_dim",
    "given_codebooks",
)


class Run:
    """What all rows share: a finished run's encoders, its clips, and clips held out.

    Raises DataError for a folder that lacks them, OptionError for one of another model.
    """

    def __init__(self, folder: Path, out: Path, ablations: Ablations, workers: int) -> None:
        for name in ("start.pt", "train.npz"):
            if not (folder / name).is_file():
                raise DataError(
                    f"{folder / name} is not there, expected the folder of a run with its codec, "
                    f"image encoder and tokens; make it with python -m recipes.train "
                    f"{ablations.recipe} --out {folder}"
                )
        self.folder, self.out, self.ablations, self.workers = folder, out, ablations, workers
        self.start = read_checkpoint(folder / "start.pt")
        self.encoders = encoders_sha256(self.start.codec(), self.start.visual_encoder())
        self.clips = TokenisedClips.load(folder / "train.npz")
        self._check_clips()
        for name in ablations.rows:
            self._check_row(name, ablations.setup(name).model)

    def _check_clips(self) -> None:
        c = self.start.config
        found = (self.clips.tokens.shape[1:], self.clips.features.shape[1:])
        expected = ((c.num_codebooks, c.num_token_steps), (c.num_frames, c.visual_dim))
        if found != expected:
            raise DataError(
                f"{self.folder / 'train.npz'} has tokens and features of {found} a clip, expected "
                f"{expected}, those of {self.start.path}; delete it and run the recipe again"
            )

    def _check_row(self, name: str, row: ModelConfig) -> None:
        found = self.start.config
        for fact in OF_THE_TOKENS:
            if getattr(found, fact) != getattr(row, fact):
                raise OptionError(
                    f"{self.start.path} has the {fact} {getattr(found, fact)!r}, expected "
                    f"{getattr(row, fact)!r} of recipe {self.ablations.recipe}; give --run the "
                    "folder of a run of that recipe"
                )
        if row.visual_rate_hz > found.visual_rate_hz:
            raise OptionError(
                f"row {name} wants {row.visual_rate_hz:g} visual features a second, expected at "
                f"most {found.visual_rate_hz:g}, which {self.start.path} was made with"
            )

    @cached_property
    def inputs(self) -> dict[str, str]:
        """What every training of a row is made of, beside its settings."""
        return {"encoders": self.encoders, "clips": sha256(self.folder / "train.npz")}

    @cached_property
    def seeds(self) -> list[int]:
        return foleyworld.clip_seeds(HELD_OUT_SPLIT, 0, self.ablations.clips)

    @cached_property
    def held_out(self) -> TokenisedClips:
        kept = self.out / f"held-out-{self.ablations.clips}.npz"

        def make() -> None:
            held_out_clips(self.start.path, self.seeds, self.workers).save(kept)

        stage(kept, make, encoders=self.encoders, world=foleyworld.VERSION)
        return TokenisedClips.load(kept)

    @cached_property
    def reference(self) -> Reference:
        """The measures of the held-out clips; evaluating their true sounds takes a moment."""
        scenes = [foleyworld.make_scene(seed) for seed in self.seeds]
        clips = evaluate_clips(true_sound, self.seeds, EvalConfig(), self.workers)
        return Reference(scenes, [clip.sounds["ground_truth"] for clip in clips])
