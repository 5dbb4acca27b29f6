"""The Fourier neural operator: its transform against an FFT, its modes, its transforms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsci import nn


@pytest.mark.parametrize("modes", [nn.cosine_modes, nn.fourier_modes])
@pytest.mark.parametrize(("n", "m"), [(8, 5), (9, 9), (16, 1)])
def test_modes_are_orthonormal(modes, n, m):
    matrix = modes(n, m)
    assert matrix.shape == (n, m)
    np.testing.assert_allclose(matrix.T @ matrix, np.eye(m), atol=1e-14)


def _layer(channels, modes, key):
    layer = nn.SpectralLayer(channels, modes, key=key, dtype=jnp.float64)
    return layer, np.asarray(layer.skip), np.asarray(layer.spectral)


def test_spectral_layer_in_one_dimension_is_a_truncated_convolution(key):
    """Equal weights of cosine and sine are a real multiplier of the discrete Fourier transform."""
    n, m = 16, 7
    layer, skip, spectral = _layer(3, (m,), key)
    # Modes 1, cos 1, sin 1, cos 2, sin 2, …: pairs of one frequency share their matrix.
    frequency = (np.arange(m) + 1) // 2
    layer = jax.tree.map(lambda x: x, layer)
    shared = jnp.asarray(spectral[2 * frequency - (frequency > 0)])
    object.__setattr__(layer, "spectral", shared)
    v = jax.random.normal(jax.random.key(1), (3, n))
    found = layer(v, [jnp.asarray(nn.fourier_modes(n, m))])
    spectrum = np.fft.rfft(np.asarray(v), axis=1)
    filtered = np.zeros_like(spectrum)
    for k in range(m // 2 + 1):
        filtered[:, k] = np.asarray(shared)[max(2 * k - 1, 0)] @ spectrum[:, k]
    wanted = np.fft.irfft(filtered, n, axis=1) + skip @ np.asarray(v)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-12)


def test_sines_and_cosines_with_their_own_weights_are_a_complex_multiplier(key):
    """A weight W on a pair (cos, sin) that turns it is the phase of an FFT-based layer: only the
    multiples of the identity on each mode are pointwise here, which is their real part."""
    n, m = 12, 5
    layer, skip, spectral = _layer(2, (m,), key)
    v = np.asarray(jax.random.normal(jax.random.key(1), (2, n)))
    found = layer(jnp.asarray(v), [jnp.asarray(nn.fourier_modes(n, m))])
    spectrum = np.fft.fft(v, axis=1) / n
    j = np.arange(n)
    wanted = skip @ v + (spectral[0] @ spectrum[:, 0].real)[:, None]
    for k in (1, 2):
        a, b = 2 * spectrum[:, k].real, -2 * spectrum[:, k].imag
        angle = 2 * np.pi * k * j / n
        wanted = wanted + np.outer(spectral[2 * k - 1] @ a, np.cos(angle))
        wanted = wanted + np.outer(spectral[2 * k] @ b, np.sin(angle))
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-12)


def test_spectral_layer_in_two_dimensions(key):
    layer, skip, spectral = _layer(2, (3, 4), key)
    first, second = nn.fourier_modes(8, 3), nn.cosine_modes(6, 4)
    v = np.asarray(jax.random.normal(jax.random.key(1), (2, 8, 6)))
    z = np.einsum("cij,ia,jb->abc", v, first, second)
    z = np.einsum("aboc,abc->abo", spectral, z)
    wanted = np.einsum("abo,ia,jb->oij", z, first, second) + np.einsum("oc,cij->oij", skip, v)
    found = layer(jnp.asarray(v), [jnp.asarray(first), jnp.asarray(second)])
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-12)


def _network(dtype=jnp.float64, **kwargs):
    return nn.FNO(2, 3, (4, 5), width=6, depth=2, key=jax.random.key(0), dtype=dtype, **kwargs)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64], ids=["float32", "float64"])
def test_jit_vmap_grad_and_precision(dtype):
    network = _network(dtype)
    x = jax.random.normal(jax.random.key(1), (5, 2, 8, 9), dtype)
    many = jax.jit(lambda network, x: jax.vmap(network)(x))(network, x) if False else None
    del many
    forward = jax.jit(jax.vmap(lambda x: network(x)))
    out = forward(x)
    assert out.shape == (5, 3, 8, 9) and out.dtype == dtype
    tolerance = 1e-4 if dtype == jnp.float32 else 1e-12
    np.testing.assert_allclose(out[2], network(x[2]), rtol=0, atol=tolerance)
    loss = jax.jit(lambda x: jnp.sum(network(x) ** 2))
    gradient = jax.jit(jax.grad(loss))(x[0])
    assert gradient.dtype == dtype
    if dtype == jnp.float64:
        d = jnp.sin(jnp.arange(x[0].size)).reshape(x[0].shape)
        h = 1e-5
        difference = (loss(x[0] + h * d) - loss(x[0] - h * d)) / (2 * h)
        np.testing.assert_allclose(jnp.vdot(gradient, d), difference, rtol=1e-7)


def test_same_network_at_another_resolution():
    """A smooth field sampled twice as finely gives nearly the same function."""
    network = nn.FNO(
        1, 1, (5,), width=6, depth=2, basis=(nn.fourier_modes,), key=jax.random.key(0), dtype=jnp.float64
    )
    field = lambda n: jnp.sin(2 * jnp.pi * jnp.arange(n) / n)[None]
    coarse, fine = network(field(64)), network(field(128))
    np.testing.assert_allclose(fine[:, ::2], coarse, rtol=0, atol=1e-8)


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="`basis` has 1 entries and `modes` 2"):
        _network(basis=(nn.cosine_modes,))
    with pytest.raises(ValueError, match="`x` has shape"):
        _network()(jnp.ones((2, 8)))
    with pytest.raises(ValueError, match="at least"):
        _network()(jnp.ones((2, 8, 4)))
