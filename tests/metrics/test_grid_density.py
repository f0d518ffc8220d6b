"""Grid densities against closed forms of Gaussians."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from megjax.metrics import grid_density

BETAS = np.array([0.5, 1.0, 4.0])


def gaussian_energy(x, std=0.25):
    return jnp.sum(x**2, axis=-1) / (2 * std**2)


def test_grid_by_hand():
    grid = grid_density.grid(size=2, extent=1.0)
    np.testing.assert_allclose(
        grid.points, [[-0.5, -0.5], [-0.5, 0.5], [0.5, -0.5], [0.5, 0.5]]
    )
    np.testing.assert_allclose(grid.log_cell_area, 0.0)


def test_grid_energies_in_chunks_are_the_energies():
    grid = grid_density.grid(size=33)
    energies = grid_density.grid_energies(gaussian_energy, grid, chunks=7)
    np.testing.assert_allclose(energies, gaussian_energy(grid.points), rtol=1e-6)


def test_mass_within_a_radius_of_a_gaussian():
    # At inverse temperature beta the variance is std^2 / beta.
    grid = grid_density.grid()
    energies = grid_density.grid_energies(gaussian_energy, grid)
    cells = grid_density.near(grid, np.zeros((1, 2)), 0.3)
    curve = grid_density.mass_curve(energies, cells, BETAS)
    expected = 1 - np.exp(-BETAS * 0.3**2 / (2 * 0.25**2))
    np.testing.assert_allclose(curve, expected, atol=2e-3)


def test_flat_energy_has_the_window_share():
    grid = grid_density.grid(size=100)
    cells = grid_density.near(grid, np.array([[0.0, 0.0], [1.0, 1.0]]), 0.5)
    curve = grid_density.mass_curve(jnp.zeros(100**2), cells, BETAS)
    np.testing.assert_allclose(curve, cells.mean(), rtol=1e-4)
    np.testing.assert_allclose(cells.mean(), 2 * np.pi * 0.25 / 16, rtol=0.02)


def test_cross_entropy_of_a_gaussian_is_its_entropy_at_beta_one():
    grid = grid_density.grid()
    energies = grid_density.grid_energies(gaussian_energy, grid)
    x = 0.25 * jax.random.normal(jax.random.key(0), (200_000, 2))
    losses = grid_density.cross_entropies(energies, gaussian_energy(x), grid, BETAS)
    # Cross-entropy of N(0, s^2) under N(0, s^2 / beta), two dimensions.
    expected = np.log(2 * np.pi * 0.25**2 / BETAS) + BETAS
    np.testing.assert_allclose(losses, expected, atol=0.01)
    assert np.argmin(losses) == 1


def test_jensen_shannon_by_hand():
    p, q = np.array([1.0, 0.0]), np.array([0.0, 1.0])
    assert grid_density.jensen_shannon_divergence(p, q) == pytest.approx(np.log(2))
    assert grid_density.jensen_shannon_divergence(p, p) == 0
    half = np.array([0.5, 0.5])
    value = 0.5 * np.log(4 / 3) + 0.5 * (0.5 * np.log(2 / 3) + 0.5 * np.log(2))
    assert grid_density.jensen_shannon_divergence(p, half) == pytest.approx(value)


def test_cells_are_ordered_as_the_grid():
    x = np.array([[-0.9, 0.9], [-0.9, 0.9], [0.9, -0.9], [5.0, 5.0]])
    np.testing.assert_allclose(grid_density.cell_shares(x, 2, 1.0), [0, 0.5, 0.25, 0])


def test_kl_divergence_by_hand():
    # Model 3/4 and 1/4 against 1/2 each; the empty cell adds nothing.
    value = 0.5 * np.log(0.5 / 0.75) + 0.5 * np.log(0.5 / 0.25)
    found = grid_density.kl_divergence(
        np.array([0.5, 0.5, 0]), np.log([0.75, 0.25, 0.1])
    )
    assert found == pytest.approx(value, rel=1e-12)
