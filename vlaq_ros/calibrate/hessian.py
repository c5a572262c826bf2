"""The proxy of QVLA's published code, which differs from the paper's: no action and no gradient takes part in it."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from vlaq_ros.calibrate.moments import moments
from vlaq_ros.calibrate.noise import noise
from vlaq_ros.calibrate.probe import Probe, layers
from vlaq_ros.quant.hadamard import block_size, rotate
from vlaq_ros.quant.rounding import inverse_factor


def hessian(probe: Probe, report: Callable[[int], None]) -> dict[str, Tensor]:
    """Weigh the rounding error of every channel by the second moments of its layer's inputs, as GPTQ does.

    H is the mean of 2 x x^T over all tokens x, d the diagonal of the upper Cholesky factor of the damped H's inverse,
    and the proxy sum_j (Q(W) - W)_cj^2 / d_j^2 (the authors' repository, 26cc4821). It is local to the layer: how much
    the actions depend on that layer is not in it, yet channels are ranked by it over the whole network.

    Args:
        probe: the network and its observations.
        report: called with the number of layers done.

    Returns:
        Layer -> [4, O] float64, by the widths of `storage.WIDTHS`; in no unit that layers share.
    """
    linears = layers(probe.network)
    return {name: _weighted(linears[name].weight, moment) for name, moment in moments(probe, linears, report)}


def _weighted(weight: Tensor, moment: Tensor) -> Tensor:
    features = weight.shape[1]
    block = block_size(features)
    H = 2 * rotate(rotate(moment.double(), block).T, block)[:features, :features]  # the rotation is its own inverse
    d = inverse_factor(H).diagonal()
    proxy: Tensor = noise(weight).double().square() @ d.square().reciprocal()
    return proxy
