"""What a model is worth as an encoder, once it is fine-tuned: retrieval, and classification."""

from pathlib import Path

from training import classification
from training.checkpoint import read_checkpoint
from training.classification import classification_result, weights_path
from training.contrastive import load_retriever
from training.datasets.clips import TokenisedClips
from training.evaluation.models import on_device
from training.evaluation.retrieval import retrieval_result
from training.representation import MODALITIES
from vab_rt.errors import DataError


def evaluate_retrieval(
    checkpoint: Path, contrastive: Path, clips: TokenisedClips, device: str = "cpu"
) -> dict:
    """r1, r5, r10 under video_to_audio and audio_to_video."""
    retriever = on_device(load_retriever(contrastive, read_checkpoint(checkpoint).config), device)
    return retrieval_result(retriever, clips)


def evaluate_classification(
    checkpoint: Path,
    folder: Path,
    clips: TokenisedClips,
    probe: bool = False,
    device: str = "cpu",
) -> dict:
    """accuracy and map under a, v and av. Raises DataError for one that is not trained."""
    config = read_checkpoint(checkpoint).config
    result: dict = {"clips": len(clips)}
    for modality in MODALITIES:
        path = weights_path(folder, modality, probe)
        if not path.is_file():
            raise DataError(
                f"{path} is not there, expected the classifier; train it with python -m "
                f"training.classification {checkpoint} --shards FOLDER --modality {modality} "
                f"--out {folder}"
            )
        classifier = classification.load_classifier(path, config, modality)
        classifier = on_device(classifier, device)
        result[modality] = classification_result(classifier, clips)
    return result
