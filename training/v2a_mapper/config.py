"""The files `configs/v2a-mapper*.toml`: a V2A-Mapper, and how every stage of its training runs."""

from pathlib import Path
from typing import Self

import msgspec

from training.configs import CONFIGS, check_budgets
from training.saving import with_new_keys
from training.v2a_mapper.autoencoder import AutoencoderSettings
from training.v2a_mapper.clap import ClapSettings
from training.v2a_mapper.denoiser import DenoiserSettings
from training.v2a_mapper.parts import check_networks
from training.v2a_mapper.settings import MappingSettings, Networks
from training.v2a_mapper.vocoder import VocoderSettings
from vab_rt.errors import OptionError, VabError
from vab_rt.options import Tuning
from vab_rt.v2a_mapper.config import V2AConfig

NAMES = "v2a-mapper"


class V2ARecipe(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One run. Minutes are per stage, on whatever machine it is; the mappers count in steps.

    ready: the folder of a finished run of VAB, whose CLIP is taken where it is there.
    rendered_clips: what CLIP learns from where they are not; clips: what all else learns from but
    the vocoder, which has vocoder_clips of them. options: what the model recommends.
    """

    model: V2AConfig
    networks: Networks
    options: Tuning = Tuning()
    ready: str = "runs/default"
    clap: ClapSettings = ClapSettings()
    autoencoder: AutoencoderSettings = AutoencoderSettings()
    denoiser: DenoiserSettings = DenoiserSettings()
    vocoder: VocoderSettings = VocoderSettings()
    regression: MappingSettings = MappingSettings()
    prior: MappingSettings = MappingSettings()
    rendered_clips: int = 3000
    clips: int = 4000
    vocoder_clips: int = 2000
    evaluated_clips: int = 160
    clip_minutes: float = 11
    clap_minutes: float = 6
    autoencoder_minutes: float = 8
    denoiser_minutes: float = 15
    vocoder_minutes: float = 10
    license: str = "Apache-2.0"

    def __post_init__(self) -> None:
        check_budgets(self)

    def check_crops(self) -> None:
        """Raises OptionError for parts of a clip that are longer than one."""
        c = self.model
        if self.autoencoder.frames % c.latent_factor:
            raise OptionError(
                f"autoencoder frames is {self.autoencoder.frames}, expected a multiple of the "
                f"model's latent_factor ({c.latent_factor})"
            )
        most = {
            "clap stripe": (self.clap.stripe, min(c.num_mels, c.num_mel_frames // 4)),
            "autoencoder frames": (self.autoencoder.frames, c.num_mel_frames),
            "vocoder columns": (self.vocoder.columns, c.num_hops - 2),
        }
        for name, (found, limit) in most.items():
            if found > limit:
                raise OptionError(
                    f"{name} is {found}, expected at most {limit}, for clips of {c.clip_s:g} s of "
                    f"model {c.name}"
                )

    def with_minutes(self, denoiser: float) -> Self:
        return msgspec.structs.replace(self, denoiser_minutes=denoiser)


def path_of(name: str) -> Path:
    return Path(name) if name.endswith(".toml") else CONFIGS / f"{name}.toml"


def is_v2a_recipe(name: str) -> bool:
    """Whether a recipe, by name or path, is of a V2A-Mapper: it has its networks, VAB's has none.

    One that cannot be read goes by its name; whoever reads it then says what is wrong.
    """
    path = path_of(name)
    try:
        return "networks" in msgspec.toml.decode(path.read_bytes())
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return path.stem.startswith(NAMES)


def read_v2a_recipe(name: str) -> V2ARecipe:
    """A recipe by name or path. Raises OptionError naming the file and the key at fault."""
    path = path_of(name)
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in CONFIGS.glob(f"{NAMES}*.toml")))
        raise OptionError(f"no recipe {name!r}; expected a .toml file or one of: {known}")
    try:
        content = with_new_keys(msgspec.toml.decode(path.read_bytes()))
        if "networks" not in content:
            raise OptionError("it has no [networks], expected a recipe of a V2A-Mapper")
        recipe = msgspec.convert(content, V2ARecipe)
        check_networks(recipe.model, recipe.networks)
    except (
        msgspec.DecodeError,
        UnicodeDecodeError,
        VabError,
    ) as error:  # which name the key and what is expected
        raise OptionError(f"{path}: {error}") from error
    return recipe
