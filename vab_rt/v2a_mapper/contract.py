"""What a bundle of a V2A-Mapper must hold: its graphs, and its manifest."""

from vab_rt.contract import GraphContract, Manifest, Tensor
from vab_rt.options import fill_in
from vab_rt.v2a_mapper.config import LatentOptions, V2AConfig


class V2AManifest(Manifest, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A mapper between an image encoder and AudioLDM, which denoises latents of spectrograms."""

    system = "vab_rt.v2a_mapper.system"

    model: V2AConfig

    @property
    def contracts(self) -> dict[str, GraphContract]:
        return v2a_contract_of(self.model)

    @property
    def defaults(self) -> LatentOptions:
        return fill_in(self.options, LatentOptions(), self.model.name)


def v2a_contract_of(config: V2AConfig) -> dict[str, GraphContract]:
    """By graph name, what a bundle with this config must hold.

    visual_encoder: RGB bytes -> features as the mapper was trained on them, of any length.
    mapper: of a regression features -> CLAP embeddings, of any length. Of a prior one step: noisy
        embeddings times sqrt(audio_dim), the time step, the features, and 1.0 for conditional or
        0.0 for the unconditional branch -> the embeddings without noise, on the same scale.
    unet: one step: noisy latents, the time step, embeddings of unit length, and per item 1.0 or 0.0
        for the unconditional branch, whose embedding is a constant in the graph -> the noise.
    vae_decoder: latents -> log-mel spectrograms. vocoder: those -> samples in [-1, 1].
    """
    c = config
    frames = Tensor("frames", "uint8", ("N", c.image_size, c.image_size, 3))
    frame_features = Tensor("features", "float32", ("N", c.visual_dim))
    features = Tensor("features", "float32", ("B", c.visual_dim))
    embedding = Tensor("embedding", "float32", ("B", c.audio_dim))
    noisy = Tensor("noisy", "float32", ("B", c.audio_dim))
    timestep, conditional = (
        Tensor("timestep", "int32", ("B",)),
        Tensor("conditional", "float32", ("B",)),
    )
    latent = Tensor("latent", "float32", ("B", *c.latent_shape))
    noise = Tensor("noise", "float32", ("B", *c.latent_shape))
    mel = Tensor("mel", "float32", ("B", c.num_mel_frames, c.num_mels))
    audio = Tensor("audio", "float32", ("B", c.num_samples))
    mapper_inputs = {
        "regression": (features,),
        "prior": (noisy, timestep, features, conditional),
    }
    graphs = {"visual_encoder": GraphContract((frames,), (frame_features,))}
    if c.mapper != "none":
        graphs["mapper"] = GraphContract(mapper_inputs[c.mapper], (embedding,))
    return graphs | {
        "unet": GraphContract((latent, timestep, embedding, conditional), (noise,)),
        "vae_decoder": GraphContract((latent,), (mel,)),
        "vocoder": GraphContract((mel,), (audio,)),
    }
