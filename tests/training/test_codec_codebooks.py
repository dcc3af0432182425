"""Codebooks begin where the latents are, follow them, and leave no code behind."""

import pytest

torch = pytest.importorskip("torch", reason="training needs torch")

from encodec.quantization import ResidualVectorQuantizer

from training.codecs.codebooks import fit_codebooks, follow, kmeans, nearest, quantise


def quantiser(codes: int = 8, layers: int = 2, dimension: int = 4) -> ResidualVectorQuantizer:
    torch.manual_seed(0)
    made = ResidualVectorQuantizer(
        dimension=dimension, n_q=layers, bins=codes, kmeans_init=False, decay=0.9
    )
    list(fit_codebooks(made, torch.randn(400, dimension), rounds=4))
    return made


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_kmeans_finds_separate_clusters():
    centres = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
    points = centres.repeat(50, 1) + 0.1 * torch.randn(150, 2)
    found = kmeans(points, 12, rounds=20)
    assert torch.cdist(centres, found).amin(1).max() < 0.2


def test_kmeans_of_fewer_points_than_centres():
    points = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    found = kmeans(points, 8, rounds=2)
    assert found.shape == (8, 2) and torch.cdist(found, points).amin(1).max() < 1e-6


def test_quantising_is_what_encoding_and_decoding_do():
    made, latents = quantiser().eval(), torch.randn(2, 10, 4)
    quantised, _ = quantise(made, latents, seeded(), 0.1)
    decoded = made.vq.decode(made.vq.encode(latents.transpose(1, 2))).transpose(1, 2)
    torch.testing.assert_close(quantised, decoded)


def test_the_gradient_goes_straight_through():
    latents = torch.randn(2, 10, 4, requires_grad=True)
    quantised, _ = quantise(quantiser(), latents, seeded(), 0.1)
    weights = torch.randn(2, 10, 4)
    (quantised * weights).sum().backward()
    torch.testing.assert_close(latents.grad, weights)


def test_every_codebook_pulls_the_encoder():
    """The encodec package's own forward passes the gradient of the first alone."""
    made, latents = quantiser().eval(), torch.randn(2, 10, 4, requires_grad=True)
    _, commitment = quantise(made, latents, seeded(), 0.1)
    commitment.backward()
    residual, pulls = latents.detach().flatten(0, 1), []
    for layer in made.vq.layers:
        residual = residual - layer.codebook[nearest(residual, layer.codebook)]
        pulls.append(residual)
    expected = sum(pulls).unflatten(0, (2, 10)) * 2 / (len(pulls) * latents.numel())
    torch.testing.assert_close(latents.grad, expected)
    assert pulls[1].abs().max() > 0.01


def test_codes_stay_where_k_means_put_them_while_the_latents_do():
    made = quantiser()
    before, points = made.vq.layers[0].codebook.clone(), torch.randn(40, 10, 4)
    quantise(made, points, seeded(), 0.01)
    assert (made.vq.layers[0].codebook - before).norm() < 0.1 * before.norm()


def test_codes_follow_the_latents():
    made, latents = quantiser(), torch.randn(40, 10, 4) + 3
    errors = []
    for _ in range(30):
        _, commitment = quantise(made, latents, seeded(), 0.1)
        errors.append(commitment.item())
    assert errors[-1] < 0.3 * errors[0]


def test_codebooks_rest_in_evaluation():
    made = quantiser().eval()
    before = [buffer.clone() for buffer in made.buffers()]
    quantise(made, torch.randn(4, 10, 4) + 3, seeded(), 0.1)
    assert all(torch.equal(a, b) for a, b in zip(before, made.buffers(), strict=True))


def test_a_code_that_nothing_falls_to_becomes_one_of_the_points():
    book = quantiser().vq.layers[0]._codebook
    book.embed[3] = 1e3
    book.embed_avg[3] = 1e3 * book.cluster_size[3]
    points, random = torch.randn(100, 4), seeded()
    for i in range(40):
        follow(book, points, nearest(points, book.embed), random, 0.1)
        if book.embed[3].norm() < 100:
            break
    assert torch.cdist(book.embed[3:4], points).min() < 1e-5, "it is one of them"
    assert 5 < i < 39, "neither at once nor never"
    before = book.embed[3].clone()
    owner = nearest(points, book.embed)
    assert (owner == 3).any(), "and points fall to it"
    follow(book, points, owner, random, 0.1)
    assert (book.embed[3] - before).norm() < 1, "it stays"


def test_what_is_drawn_follows_from_the_generator():
    results = []
    for seed in (1, 1, 2):
        made = quantiser(codes=16)
        for layer in made.vq.layers:
            layer._codebook.cluster_size[:8] = 1e-6
        quantise(made, torch.ones(2, 5, 4), torch.Generator().manual_seed(seed), 0.1)
        results.append(made.vq.layers[1].codebook.clone())
    assert torch.equal(results[0], results[1])
