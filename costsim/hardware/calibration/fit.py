"""From what was seen of probes to the laws of a target, and how far to trust them.

For each kernel, non-negative least squares (Lawson and Hanson; `scipy.optimize.nnls`) of

    seconds_i  ~  overhead + macs_i / rate + bytes_i / bandwidth

with every equation divided by the seconds that the law itself gives, so that errors count as
shares and sums come out right (dividing by the seconds measured would pull all laws down), and
reweighted a few times so that outliers count less (Cauchy weights). A kernel that was seen in few
sizes is drawn towards the law of its family (all kernels of that operator and direction) by
equations of its own, which weigh as much as `PRIOR` samples.

How far to trust them is found on probes left out: laws are fitted to all probes but a few and
asked for the steps of those, in turns. They are the probes as deep as real networks, as far as
there are any: the others were chosen for being unlike one another. The relative variance of those
errors has a part that averages out over operations, known from the residuals; what is beyond it is
shared by a step.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls
from scipy.stats import t as student

from costsim.base.errors import InputError
from costsim.base.units import counted
from costsim.device.calibration import QUANTILE, Calibration, Law
from costsim.hardware.calibration.probes import parse_probe
from costsim.hardware.calibration.samples import (
    SampleFile,
    Seen,
    noise_floor,
    seen,
    yardstick_seconds,
)
from costsim.pricing.cost import operation_work

Floats = NDArray[np.float64]

PRIOR = 0.1
ROUNDS = 8
OUTLIER = 0.3
"""Relative error from which on a sample counts for less than half."""
FOLDS = 12
FEWEST_CHECKS = 6
FEWEST_PROBES = 6
SHORTEST_S = 2e-6
"""Operations this short are not asked to be right to a share of their length."""


@dataclass(frozen=True)
class KernelSample:
    """One operation of a probe: what it did, and how long it took."""

    kernel: str
    work_kind: str
    direction: str
    macs: float
    moved_bytes: float
    seconds: float

    @property
    def terms(self) -> tuple[float, float, float]:
        """What the law is linear in."""
        return (1.0, self.macs, self.moved_bytes)


@dataclass(frozen=True)
class ProbeSamples:
    """The operations of one probe, and its whole step."""

    name: str
    samples: tuple[KernelSample, ...]
    step_s: float


def family(kernel: str) -> str:
    """What a kernel shares with others: operator and direction."""
    return kernel.partition(",")[0]


def kernel_samples(found: Iterable[Seen]) -> list[ProbeSamples]:
    """Every operation of every probe with its kernel, work and seconds."""
    result = []
    for one in found:
        program = one.probe.program()
        samples = tuple(
            KernelSample(kernel, kind, direction, macs, moved, float(seconds))
            for (kind, direction, macs, moved, kernel), seconds in zip(
                (operation_work(program, op) for op in program.operations),
                one.operation_s,
                strict=True,
            )
        )
        result.append(ProbeSamples(one.probe.name, samples, one.step_s))
    return result


def fit_calibration(samples: SampleFile, taken: str) -> Calibration:
    """The laws that describe `samples`; `taken` says when.

    Raises `InputError` if there are too few probes to say how far to trust them.
    """
    probes = kernel_samples(seen(samples))
    if len(probes) < FEWEST_PROBES:
        raise InputError(
            f"{counted(len(probes), 'probe')} measured; at least {FEWEST_PROBES} are "
            "needed for a fit"
        )
    laws = fit_laws([s for p in probes for s in p.samples])
    factor = _step_factor(probes)
    left_out, own = _held_out(probes, factor)
    errors = np.array(list(left_out.values()))
    # Of few probes the spread is itself uncertain: Student's t.
    if len(errors) < 2:
        raise InputError("the probes have no kernel in common; measure more of them")
    widening = float(student.ppf(0.95, len(errors) - 1)) / QUANTILE
    offset = float(np.median(errors))
    shared = max(_variance(errors) + offset**2 - float(np.mean(own**2)), 0.0)
    return Calibration(
        conditions=samples.conditions,
        taken=taken,
        step_factor=factor,
        common=widening * math.sqrt(shared),
        noise_floor=noise_floor(samples),
        yardstick_s=yardstick_seconds(samples),
        probes=len(probes),
        kernels=laws,
        left_out={name: round(error, 5) for name, error in left_out.items()},
    )


def fit_laws(samples: Sequence[KernelSample]) -> dict[str, Law]:
    """A law for each kernel in `samples`, in alphabetical order."""
    by_kernel: dict[str, list[KernelSample]] = defaultdict(list)
    by_family: dict[str, list[KernelSample]] = defaultdict(list)
    for sample in samples:
        if sample.seconds > 0:
            by_kernel[sample.kernel].append(sample)
            by_family[family(sample.kernel)].append(sample)
    prior = {name: _fit(found, None) for name, found in by_family.items()}
    terms = {name: _fit(found, prior[family(name)]) for name, found in sorted(by_kernel.items())}
    residuals = {name: _residuals(by_kernel[name], law) for name, law in terms.items()}
    usual = math.sqrt(_variance(np.concatenate(list(residuals.values()))))
    return {
        name: Law(
            overhead_s=float(law[0]),
            s_per_mac=float(law[1]),
            s_per_byte=float(law[2]),
            spread=_spread(residuals[name], usual),
            samples=", ".join(
                f"{s.macs:.0f} {s.moved_bytes:.0f} {s.seconds:.4g}" for s in by_kernel[name]
            ),
        )
        for name, law in terms.items()
    }


def _fit(samples: Sequence[KernelSample], prior: Floats | None) -> Floats:
    """The three terms."""
    terms = np.array([s.terms for s in samples])
    seconds = np.array([s.seconds for s in samples])
    # Of one size each, so that the solver's tolerance means the same for all.
    scale = np.maximum(terms.max(axis=0), 1.0)
    scaled, size = terms / scale, np.maximum(seconds, SHORTEST_S)
    pull, pulled = np.empty((0, 3)), np.empty(0)
    if prior is not None:
        # Each term as a share of the seconds where it is largest; the overhead, of the usual ones.
        largest = [float(np.median(size)), *size[terms[:, 1:].argmax(axis=0)]]
        pull = math.sqrt(PRIOR) * np.diag(1 / np.array(largest))
        pulled = pull @ (prior * scale)
    weight = np.ones(len(samples))
    for _ in range(ROUNDS):
        w = np.sqrt(weight) / size
        solution, _ = nnls(
            np.vstack((scaled * w[:, None], pull)), np.concatenate((seconds * w, pulled))
        )
        size = np.maximum(scaled @ solution, SHORTEST_S)
        error = np.log(np.maximum(seconds, 1e-9) / size)
        weight = 1.0 / (1.0 + (error / OUTLIER) ** 2)
    found: Floats = solution / scale
    if not found.any():
        found[0] = float(np.median(seconds))
    return found


def _residuals(samples: Sequence[KernelSample], law: Floats) -> Floats:
    """Logarithm of seen over fitted, widened for the degrees of freedom that the fit took."""
    terms = np.array([s.terms for s in samples])
    seconds = np.array([s.seconds for s in samples])
    n = len(samples)
    result: Floats = np.log(seconds / (terms @ law)) * math.sqrt(n / max(n - 3, 1))
    return result


def _variance(errors: Floats) -> float:
    """Robust: from the middle half, or as it is where that is more."""
    if len(errors) < 2:
        return 0.0
    low, median, high = (float(q) for q in np.quantile(errors, (0.25, 0.5, 0.75)))
    middle = (high - low) / 1.349
    spread = float(np.std(np.clip(errors, median - 4 * middle, median + 4 * middle)))
    return max(spread, middle) ** 2


def _spread(residuals: Floats, usual: float) -> float:
    """Of few residuals, nearer to what is usual."""
    n = len(residuals)
    return math.sqrt((n * float(np.mean(np.minimum(residuals**2, 1.0))) + 3 * usual**2) / (n + 3))


def _asked(probes: Sequence[ProbeSamples]) -> list[ProbeSamples]:
    """The probes by which a calibration judges itself: those as deep as real networks."""
    deep = [probe for probe in probes if parse_probe(probe.name).whole]
    return deep if len(deep) >= FEWEST_CHECKS else list(probes)


def _step_factor(probes: Sequence[ProbeSamples]) -> float:
    """An undisturbed step over the sum of its operations."""
    ratios = [p.step_s / sum(s.seconds for s in p.samples) for p in _asked(probes)]
    return float(np.median(ratios))


def _held_out(probes: Sequence[ProbeSamples], factor: float) -> tuple[dict[str, float], Floats]:
    """Logarithm of measured over predicted step of each probe, by laws that never saw it.

    The second is the relative standard deviation that its operations' own errors explain.
    Operations whose kernel no other probe has are left out on both sides.
    """
    asked = _asked(probes)
    errors: dict[str, float] = {}
    own = []
    for fold in range(min(FOLDS, len(asked))):
        left_out = asked[fold::FOLDS]
        laws = fit_laws([s for p in probes if p not in left_out for s in p.samples])
        for probe in left_out:
            known = [sample for sample in probe.samples if sample.kernel in laws]
            unknown_s = sum(s.seconds for s in probe.samples if s.kernel not in laws)
            seconds = [laws[s.kernel].seconds(s.macs, s.moved_bytes) for s in known]
            spread = [laws[s.kernel].spread for s in known]
            total, rest = sum(seconds), probe.step_s / factor - unknown_s
            if total <= 0 or rest <= 0:
                continue
            errors[probe.name] = math.log(rest / total)
            parts = np.array(seconds) * np.array(spread) / total
            own.append(math.sqrt(float((parts**2).sum())))
    return errors, np.array(own)
